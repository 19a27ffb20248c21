#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/decoder.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"

namespace finetuned::text {

// Everything a tokenizer is made of; tokenizer.json and GGUF vocabularies both end here.
struct TokenizerParts {
  BpeModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::vector<AddedToken> raw_added;         // found in the text as it is
  std::vector<AddedToken> normalized_added;  // found in the normalized text
  std::vector<int32_t> prefix, suffix;       // what the post-processor puts around a text
  std::optional<int32_t> bos, eos, pad, unk;
};

// Throws TokenizerError.
std::shared_ptr<const Tokenizer> MakeTokenizer(TokenizerParts parts);

}  // namespace finetuned::text
