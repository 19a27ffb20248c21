#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/text/chat_template.h"

namespace finetuned::data {

struct JsonLimits {
  int max_depth = 512;             // open arrays and objects
  int64_t max_values = 1'000'000;  // values kept in one row
};

struct JsonRow {
  text::Json value;
  // JSON paths of kept numbers that a 64-bit integer or a double cannot hold; at most 20.
  std::vector<std::string> inexact_numbers;
};

// Why a line is not a good row. `line` is left 0.
using JsonError = RowError;

// Parses one line as one strict JSON object (RFC 8259: no NaN, no trailing comma, no comments; on
// top of it: no duplicate key, no unpaired surrogate). Values of top-level keys for which `keep`
// says false are checked but not built: they become null. Iterative: depth costs no stack.
// REQUIRES: `line` is valid UTF-8.
std::optional<JsonError> ParseJsonRow(std::string_view line, const JsonLimits& limits,
                                      const std::function<bool(std::string_view key)>& keep,
                                      JsonRow* row);

// One strict JSON value of any type, for JSON inside strings (tool arguments). Same rules.
std::optional<JsonError> ParseJsonValue(std::string_view text, const JsonLimits& limits,
                                        text::Json* value);

// "an object", "a string", ...: for messages.
const char* TypeName(const text::Json& value);

}  // namespace finetuned::data
