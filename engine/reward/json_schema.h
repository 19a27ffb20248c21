#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace finetuned::reward {

// The part of JSON Schema (draft 2020-12) that describes data without references:
//   any         type (one name or a list), enum, const, allOf, anyOf, oneOf, not, true and false
//   numbers     minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf
//   strings     minLength, maxLength (code points), pattern (RE2, searched)
//   arrays      items, prefixItems, minItems, maxItems, uniqueItems, contains
//   objects     properties, required, additionalProperties, minProperties, maxProperties
// Annotations ($schema, $id, title, description, default, examples, $comment, format, deprecated)
// are passed over. Every other keyword, $ref above all, is refused when the schema is read: a rule
// that is silently not checked would reward what is wrong. Immutable, thread safe.
class JsonSchema {
 public:
  // INVALID_ARGUMENT with the JSON pointer of the keyword at fault.
  static absl::StatusOr<JsonSchema> Parse(std::string_view text);

  // Gives up (false) after kMaxSteps rules: time is bounded whatever schema and value are.
  static constexpr int kMaxSteps = 200'000;
  bool Accepts(const nlohmann::json& value) const;

  struct Node;

 private:
  explicit JsonSchema(std::shared_ptr<const Node> root) : root_(std::move(root)) {}
  std::shared_ptr<const Node> root_;
};

}  // namespace finetuned::reward
