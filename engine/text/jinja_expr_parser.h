#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja_ast.h"
#include "engine/text/jinja_lexer.h"

namespace finetuned::text::jinja {

// Recursive-descent parser of expressions over a token list. After the first error every method
// returns at once (null or empty), and status() holds the error.
class ExprParser {
 public:
  explicit ExprParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  enum class TupleStyle { kNormal, kNoConditional, kParenthesized };

  ExprPtr ParseExpression(bool with_conditional = true);
  // `a` or `a, b`; stops at one of the end names.
  ExprPtr ParseTuple(TupleStyle style, std::string_view end_name = {});
  // Names, tuples of names and, if allowed, namespace attributes.
  ExprPtr ParseTarget(bool with_namespace, std::string_view end_name = {});
  // `|f|g(x)` applied to `subject`, which may be null. start_inline: the first name has no bar.
  ExprPtr ParseFilters(ExprPtr subject, bool start_inline = false);

  bool ok() const { return status_.ok(); }
  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Next() { at_ = std::min(at_ + 1, tokens_.size() - 1); }
  bool AtOp(std::string_view op) const;
  bool AtName(std::string_view name) const;
  bool SkipOp(std::string_view op);
  bool SkipName(std::string_view name);
  void ExpectOp(std::string_view op);
  std::string ExpectName(std::string_view what);
  ExprPtr Fail(std::string_view message);
  ExprPtr FailAt(const Token& token, std::string_view message);
  std::string DescribeCurrent() const;

  absl::Status status_;

 private:
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseSum();
  ExprPtr ParseConcat();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseUnary(bool with_filter);
  ExprPtr ParsePrimary(bool with_namespace);
  ExprPtr ParseNameOrConstant(bool with_namespace);
  ExprPtr ParseListLiteral();
  ExprPtr ParseDictLiteral();
  ExprPtr ParsePostfix(ExprPtr node, bool with_filter);
  ExprPtr ParseSubscript(ExprPtr node);
  ExprPtr ParseSubscribed(ExprPtr object);
  ExprPtr ParseTest(ExprPtr node);
  void ParseCallArgs(CallExprs* call);
  bool CheckTarget(Expr* target);

  ExprPtr New(ExprKind kind, int line) const;
  ExprPtr Binary(ExprKind kind, ExprPtr left, ExprPtr right);
  // Sets the height of a finished node and refuses trees that are too high.
  ExprPtr Finish(ExprPtr node);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace finetuned::text::jinja
