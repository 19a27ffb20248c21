#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::text::jinja {

enum class TokenKind : uint8_t {
  kText,  // template text outside of tags
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 0;
  int column = 0;    // both from 1
  std::string text;  // names, operators and decoded strings; empty for tags
  int64_t integer = 0;
  double number = 0;
};

// Splits a template as jinja2 does with trim_blocks and lstrip_blocks on: white space around tags
// is already removed, comments are dropped, raw blocks are text. INVALID_ARGUMENT with line and
// column for what is no token. REQUIRES: source is valid UTF-8.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// INVALID_ARGUMENT "chat template, line L, column C: message".
absl::Status SyntaxError(int line, int column, std::string_view message);

}  // namespace finetuned::text::jinja
