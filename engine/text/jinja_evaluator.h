#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/text/jinja_ast.h"
#include "engine/text/jinja_runtime.h"

namespace finetuned::text::jinja {

// The variables of one run of the template or of one call of a macro.
struct Activation {
  explicit Activation(int count) : slots(static_cast<size_t>(count)) {}

  std::vector<Value> slots;  // a missing() value was never assigned
  std::shared_ptr<Activation> parent;
  bool captured = false;  // a macro refers to it
};

using Inputs = std::unordered_map<std::string, Value>;

// Runs a resolved template once.
class Evaluator : public Runtime {
 public:
  Evaluator(const Template& parsed, const RenderLimits& limits, int64_t now_unix_seconds)
      : Runtime(limits, now_unix_seconds), template_(parsed) {}
  ~Evaluator() override;

  // Variables by name; they hide the global functions.
  absl::StatusOr<Rendered> Run(Inputs inputs);

  Value CallMacro(const Macro& macro, CallArgs& args) override;

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Statements (jinja_evaluator.cc).
  Flow Exec(const Body& body);
  Flow Exec(const Stmt& stmt);
  Flow ExecIf(const Stmt& stmt);
  Flow ExecFor(const Stmt& stmt);
  Flow ExecBuffered(const Stmt& stmt);
  Flow ExecWith(const Stmt& stmt);
  void ExecSet(const Stmt& stmt);
  void ExecMacro(const Stmt& stmt);
  bool PullItem(const Stmt& stmt, std::vector<Value>* items, size_t* next, Value* item);
  bool PassesFilter(const Stmt& stmt, const Value& item);
  void BindParameters(const MacroNode& node, CallArgs& args);
  void EnterScope(const Loads& loads);
  Value& Slot(const VarRef& ref);
  void Assign(const Expr& target, const Value& value);
  bool CheckNamespaces(const Expr& target);

  // Expressions (jinja_eval_expr.cc).
  Value Eval(const Expr& expr);
  Value EvalNode(const Expr& expr);
  Value EvalName(const Expr& expr);
  Value EvalDict(const Expr& expr);
  Value EvalConcat(const Expr& expr);
  Value EvalCompare(const Expr& expr);
  Value EvalConditional(const Expr& expr);
  Value EvalSlice(const Expr& expr);
  Value EvalFilter(const Expr& expr);
  Value EvalTest(const Expr& expr);
  std::vector<Value> EvalAll(const std::vector<ExprPtr>& exprs);
  CallArgs EvalArgs(const CallExprs& call);

  const Template& template_;
  Inputs inputs_;
  std::shared_ptr<Activation> current_;
  StrBuilder* out_ = nullptr;
  const Value* block_value_ = nullptr;  // what the filters of a set or filter block apply to
  int macro_depth_ = 0;
  std::vector<ByteRange> generation_;
  std::vector<std::shared_ptr<Activation>> captured_;  // emptied at the end: may form cycles
};

}  // namespace finetuned::text::jinja
