#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/format/strict_json.h"
#include "engine/reward/args.h"
#include "engine/reward/internal.h"
#include "engine/reward/json_schema.h"

namespace finetuned::reward {
namespace {

constexpr format::JsonLimits kLimits = {64, 100'000};  // depth, values of a completion

// The inside of the first ``` block; its first line may name a language.
std::optional<std::string_view> Fenced(std::string_view text) {
  const size_t open = text.find("```");
  if (open == std::string_view::npos) return std::nullopt;
  const size_t begin = text.find('\n', open);
  if (begin == std::string_view::npos) return std::nullopt;
  const size_t end = text.find("```", begin);
  if (end == std::string_view::npos) return std::nullopt;
  return text.substr(begin, end - begin);
}

class Json final : public Reward {
 public:
  Json(JsonSchema schema, bool fenced) : schema_(std::move(schema)), fenced_(fenced) {}
  Score Evaluate(const Item& item) const override {
    const auto text = fenced_ ? Fenced(item.completion) : std::optional(item.completion);
    if (!text) return {0, ""};
    const auto stripped = absl::StripAsciiWhitespace(absl::string_view(text->data(), text->size()));
    const auto value = format::ParseStrictJson(stripped, "completion", kLimits);
    return {value.ok() && schema_.Accepts(*value) ? 1.0 : 0.0, ""};
  }

 private:
  const JsonSchema schema_;
  const bool fenced_;
};

}  // namespace

MadeReward MakeJsonSchema(const Args& args) {
  ArgumentReader reader("json_schema", args);
  auto schema = JsonSchema::Parse(reader.Text("schema", "{}"));
  if (!schema.ok()) reader.Require(false, "schema", std::string(schema.status().message()));
  const bool fenced = reader.Flag("fenced");
  if (absl::Status s = reader.Finish(); !s.ok()) return s;
  return std::make_unique<Json>(*std::move(schema), fenced);
}

}  // namespace finetuned::reward
