#include "engine/text/chat_template.h"

#include <optional>
#include <utility>

#include "engine/text/jinja_evaluator.h"
#include "engine/text/jinja_json.h"
#include "engine/text/jinja_parser.h"
#include "engine/text/jinja_resolver.h"

namespace finetuned::text {
namespace {

constexpr size_t kMaxTemplateBytes = 1u << 20;

// Transformers offers the reasoning of a message under two names, whichever of the three it came
// with: `thinking` first if absent, `reasoning_content` always.
jinja::Value AliasReasoning(jinja::Evaluator& evaluator, const jinja::Value& message) {
  const jinja::Dict& fields = message.dict();
  const jinja::Value* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    reasoning = fields.Find(std::string_view(name));
    if (reasoning != nullptr && !reasoning->none()) break;
    reasoning = nullptr;
  }
  if (reasoning == nullptr) return message;
  auto out = std::make_shared<jinja::Dict>();
  out->Set(jinja::Value(jinja::Plain("thinking")), *reasoning);
  for (const auto& [key, value] : fields.entries) out->Set(key, value);
  out->Set(jinja::Value(jinja::Plain("reasoning_content")), *reasoning);
  return evaluator.FinishDict(std::move(out));
}

absl::StatusOr<jinja::Value> ConvertMessages(jinja::Evaluator& evaluator, const Json& messages) {
  if (!messages.is_array()) {
    return absl::InvalidArgumentError("chat template input: messages must be a list");
  }
  std::vector<jinja::Value> out;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) {
      return absl::InvalidArgumentError(
          jinja::Cat("chat template input: messages[", i, "] must be an object"));
    }
    const jinja::Value message = jinja::FromJsonValue(evaluator, messages[i], true);
    if (!evaluator.ok()) return evaluator.status();
    out.push_back(AliasReasoning(evaluator, message));
  }
  return evaluator.List(std::move(out));
}

class JinjaChatTemplate : public ChatTemplate {
 public:
  explicit JinjaChatTemplate(std::unique_ptr<const jinja::Template> parsed)
      : parsed_(std::move(parsed)) {}

  absl::StatusOr<Rendered> Render(const RenderInput& input,
                                  const RenderLimits& limits) const override {
    jinja::Evaluator evaluator(*parsed_, limits, input.now_unix_seconds);
    absl::StatusOr<jinja::Value> messages = ConvertMessages(evaluator, input.messages);
    if (!messages.ok()) return messages.status();
    jinja::Inputs variables;
    const auto add_token = [&](const char* name, const std::string& token) {
      if (!token.empty()) variables[name] = jinja::FromJsonValue(evaluator, Json(token), false);
    };
    add_token("bos_token", input.bos_token);
    add_token("eos_token", input.eos_token);
    add_token("pad_token", input.pad_token);
    add_token("unk_token", input.unk_token);
    for (const auto& [name, value] : input.extra.items()) {
      variables[name] = jinja::FromJsonValue(evaluator, value, true);
    }
    for (const char* name : {"messages", "tools", "documents", "add_generation_prompt"}) {
      if (!input.extra.contains(name)) continue;
      return absl::InvalidArgumentError(
          jinja::Cat("chat template input: the extra variable '", name, "' is reserved"));
    }
    variables["messages"] = *std::move(messages);
    variables["tools"] = jinja::FromJsonValue(evaluator, input.tools, true);
    variables["documents"] = jinja::FromJsonValue(evaluator, input.documents, true);
    variables["add_generation_prompt"] = jinja::Value(input.add_generation_prompt);
    if (!evaluator.ok()) return evaluator.status();
    return evaluator.Run(std::move(variables));
  }

  bool has_generation_blocks() const override { return parsed_->has_generation; }

 private:
  const std::unique_ptr<const jinja::Template> parsed_;
};

}  // namespace

void SetSpecialTokens(const Tokenizer& tokenizer, RenderInput* input) {
  const auto text = [&](std::optional<int32_t> id) { return id ? tokenizer.IdToToken(*id) : std::string(); };
  input->bos_token = text(tokenizer.bos());
  input->eos_token = text(tokenizer.eos());
  input->pad_token = text(tokenizer.pad());
  input->unk_token = text(tokenizer.unk());
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ParseChatTemplate(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(jinja::Cat(
        "chat template: ", source.size(), " bytes, at most ", kMaxTemplateBytes, " are accepted"));
  }
  if (!jinja::ValidUtf8(source)) {
    return absl::InvalidArgumentError("chat template: not valid UTF-8");
  }
  absl::StatusOr<std::unique_ptr<jinja::Template>> parsed = jinja::ParseTemplate(source);
  if (!parsed.ok()) return parsed.status();
  if (absl::Status status = jinja::ResolveNames(parsed->get()); !status.ok()) return status;
  return std::make_shared<const JinjaChatTemplate>(*std::move(parsed));
}

}  // namespace finetuned::text
