#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

// Free of LibTorch.
namespace finetuned::generate {

struct PromptText {
  std::string prompt;
  std::string system_prompt;  // empty: none of ours
  bool raw = false;           // `prompt` as it is
  std::string chat_template;  // of the model
};

// Token ids of what the model is to continue: the prompt as a user's message in the chat template, or as it is with
// the tokens that the tokenizer puts before every text. Control tokens that the user's text spells are text.
// INVALID_ARGUMENT: no template, the template refuses the messages, not UTF-8, nothing to continue.
absl::StatusOr<std::vector<int32_t>> PromptTokens(const PromptText& text, const text::Tokenizer& tokenizer);

}  // namespace finetuned::generate
