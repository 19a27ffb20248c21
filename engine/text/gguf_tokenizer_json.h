#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

// Tokenizers from one file format to the other, for exports. The result splits every text as the original does.
namespace finetuned::text {

struct HfTokenizerTexts {
  std::string tokenizer_json, tokenizer_config_json;
};

// INVALID_ARGUMENT or UNIMPLEMENTED as TokenizerFromGguf.
absl::StatusOr<HfTokenizerTexts> TokenizerJsonOfGguf(const GgufVocabulary& vocabulary,
                                                     const std::string& chat_template);

// From the bytes of tokenizer.json and the tokenizer made of it. The vocabulary has `size` tokens, the rows of the
// model's embedding; ids without a token become "[PAD17]", marked unused. UNIMPLEMENTED when GGUF has no name for the
// pre-tokenizer. Source: get_vocab_base of llama.cpp's convert_hf_to_gguf.
absl::StatusOr<GgufVocabulary> GgufVocabularyOfJson(std::string_view tokenizer_json, const Tokenizer& tokenizer,
                                                    int64_t size);

}  // namespace finetuned::text
