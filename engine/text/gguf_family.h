#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "engine/text/bpe.h"
#include "engine/text/tokenizer.h"

// What GGUF's names of tokenizers mean, as tokenizer.json would say it.
namespace finetuned::text {

struct GgufFamily {
  nlohmann::json pre_tokenizer;
  bool nfc = false;
  bool ignore_merges = false;
};

// By tokenizer.ggml.pre of byte-level vocabularies. Throws TokenizerError for names that are not known.
GgufFamily FindGgufFamily(const std::string& pre);

// Parts of vocabularies of tokenizer.ggml.model "llama". SentencePieceModel throws TokenizerError.
BpeModel SentencePieceModel(const GgufVocabulary& vocabulary);
nlohmann::json SentencePieceNormalizer(bool add_space_prefix);
nlohmann::json SentencePieceDecoder(bool add_space_prefix);

}  // namespace finetuned::text
