#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja_ast.h"

namespace finetuned::text::jinja {

// Nesting the parser accepts; deeper templates are refused, so that no later walk of the tree can
// exhaust the stack.
inline constexpr int kMaxNesting = 100;
inline constexpr int kMaxExprHeight = 250;

// Syntax tree of a template, variables not yet resolved (see jinja_resolver.h). INVALID_ARGUMENT
// with line and column for a syntax error or an unsupported statement.
// REQUIRES: source is valid UTF-8.
absl::StatusOr<std::unique_ptr<Template>> ParseTemplate(std::string_view source);

}  // namespace finetuned::text::jinja
