#include "engine/generate/prompt.h"

#include <span>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/text/chat_template.h"

namespace finetuned::generate {
namespace {

absl::StatusOr<text::Rendered> Render(const PromptText& text, const text::Tokenizer& tokenizer) {
  if (text.chat_template.empty()) {
    return absl::InvalidArgumentError("raw: the model has no chat template; set raw to continue the prompt as it is");
  }
  auto parsed = text::ParseChatTemplate(text.chat_template);
  if (!parsed.ok()) return parsed.status();
  text::RenderInput input;
  input.messages = text::Json::array();
  if (!text.system_prompt.empty()) {
    input.messages.push_back({{"role", "system"}, {"content", text.system_prompt}});
  }
  input.messages.push_back({{"role", "user"}, {"content", text.prompt}});
  input.add_generation_prompt = true;
  text::SetSpecialTokens(tokenizer, &input);
  input.now_unix_seconds = absl::ToUnixSeconds(absl::Now());
  return (*parsed)->Render(input);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> PromptTokens(const PromptText& text, const text::Tokenizer& tokenizer) {
  text::Rendered rendered;
  text::EncodeOptions encode;
  if (text.raw) {
    rendered.text = text.prompt;
    encode.add_special_tokens = true;
  } else {
    auto made = Render(text, tokenizer);
    if (!made.ok()) return made.status();
    rendered = *std::move(made);
    encode.literal = rendered.from_user;
  }
  const auto tokens = tokenizer.Encode(rendered.text, encode);
  if (!tokens.ok()) return absl::InvalidArgumentError(absl::StrCat("prompt: ", tokens.status().message()));
  std::vector<int32_t> ids;
  for (const text::Token& token : *tokens) ids.push_back(token.id);
  // A text tokenizer may close every text: what is closed is not continued.
  if (text.raw && !ids.empty() && ids.back() == tokenizer.eos() && tokens->back().bytes.begin == tokens->back().bytes.end) {
    ids.pop_back();
  }
  if (ids.empty()) return absl::InvalidArgumentError("prompt: is empty, there is nothing to continue");
  return ids;
}

}  // namespace finetuned::generate
