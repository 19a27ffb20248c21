#include <utility>

#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_evaluator.h"

// Expressions of jinja_evaluator.h.
namespace finetuned::text::jinja {

Value Evaluator::Eval(const Expr& expr) {
  if (expr.kind == ExprKind::kConst) return expr.constant;
  if (!Charge(1)) return Value();
  Value value;
  if (Enter()) value = EvalNode(expr);
  Leave();
  return value;
}

Value Evaluator::EvalNode(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.constant;
    case ExprKind::kName:
      return EvalName(expr);
    case ExprKind::kNamespaceRef:
      return Value();  // only a target
    case ExprKind::kList:
      return List(EvalAll(expr.args));
    case ExprKind::kTuple:
      return Tuple(EvalAll(expr.args));
    case ExprKind::kDict:
      return EvalDict(expr);
    case ExprKind::kNeg:
    case ExprKind::kPos:
      return Unary(expr.kind, Eval(*expr.args[0]));
    case ExprKind::kNot:
      return Value(!Truthy(Eval(*expr.args[0])));
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value left = Eval(*expr.args[0]);
      return ok() && Truthy(left) == (expr.kind == ExprKind::kAnd) ? Eval(*expr.args[1]) : left;
    }
    case ExprKind::kConcat:
      return EvalConcat(expr);
    case ExprKind::kCompare:
      return EvalCompare(expr);
    case ExprKind::kConditional:
      return EvalConditional(expr);
    case ExprKind::kGetAttr: {
      const Value object = Eval(*expr.args[0]);
      line_ = expr.line;
      return GetAttr(object, expr.name);
    }
    case ExprKind::kSlice:
      return EvalSlice(expr);
    case ExprKind::kFilter:
      return EvalFilter(expr);
    case ExprKind::kTest:
      return EvalTest(expr);
    case ExprKind::kCall: {
      const Value callee = Eval(*expr.args[0]);
      CallArgs args = EvalArgs(expr.call);
      line_ = expr.line;
      return Call(callee, args);
    }
    default:
      break;
  }
  const Value left = Eval(*expr.args[0]);
  const Value right = Eval(*expr.args[1]);
  line_ = expr.line;
  return expr.kind == ExprKind::kGetItem ? GetItem(left, right) : Binary(expr.kind, left, right);
}

Value Evaluator::EvalName(const Expr& expr) {
  const Value& value = Slot(expr.ref);
  return value.missing() ? MakeUndefined(Cat("'", expr.name, "' is undefined")) : value;
}

std::vector<Value> Evaluator::EvalAll(const std::vector<ExprPtr>& exprs) {
  std::vector<Value> out;
  out.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) {
    out.push_back(Eval(*expr));
    if (!ok()) break;
  }
  return out;
}

Value Evaluator::EvalDict(const Expr& expr) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < expr.args.size() && ok(); i += 2) {
    const Value key = Eval(*expr.args[i]);
    Value value = Eval(*expr.args[i + 1]);
    if (ok()) SetItem(dict.get(), key, std::move(value));
  }
  return FinishDict(std::move(dict));
}

Value Evaluator::EvalConcat(const Expr& expr) {
  StrBuilder out;
  for (const ExprPtr& arg : expr.args) {
    const Value value = Eval(*arg);
    if (!ok()) return Value();
    AppendStr(value, &out);
  }
  return String(out.Take());
}

Value Evaluator::EvalCompare(const Expr& expr) {
  Value left = Eval(*expr.args[0]);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    Value right = Eval(*expr.args[i + 1]);
    line_ = expr.line;
    if (!ok() || !Compare(expr.ops[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Evaluator::EvalConditional(const Expr& expr) {
  const bool holds = Truthy(Eval(*expr.args[0]));
  if (!ok()) return Value();
  const ExprPtr& chosen = expr.args[holds ? 1 : 2];
  if (chosen) return Eval(*chosen);
  return MakeUndefined(Cat("the inline if-expression on line ", expr.line,
                           " evaluated to false and no else section was defined"));
}

Value Evaluator::EvalSlice(const Expr& expr) {
  const Value object = Eval(*expr.args[0]);
  Value bounds[3];
  const Value* given[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    if (!expr.args[i + 1]) continue;
    bounds[i] = Eval(*expr.args[i + 1]);
    given[i] = &bounds[i];
  }
  line_ = expr.line;
  return GetSlice(object, given[0], given[1], given[2]);
}

CallArgs Evaluator::EvalArgs(const CallExprs& call) {
  CallArgs args;
  args.positional = EvalAll(call.positional);
  for (const auto& [name, expr] : call.named) args.named.emplace_back(name, Eval(*expr));
  if (call.star && ok()) {
    for (Value& value : Items(Eval(*call.star))) args.positional.push_back(std::move(value));
  }
  if (call.star_star && ok()) {
    const Value named = Eval(*call.star_star);
    if (!ok()) return args;
    if (!named.is(Kind::kDict)) {
      FailType("argument after ** must be a mapping", named);
      return args;
    }
    for (const auto& [name, value] : named.dict().entries) {
      if (!name.string()) Fail("keywords must be strings");
      if (!ok()) return args;
      args.named.emplace_back(name.bytes(), value);
    }
  }
  return args;
}

Value Evaluator::EvalFilter(const Expr& expr) {
  Value subject;
  if (expr.args[0]) {
    subject = Eval(*expr.args[0]);
  } else if (block_value_ != nullptr) {
    subject = *block_value_;
  }
  CallArgs args = EvalArgs(expr.call);
  line_ = expr.line;
  if (!ok()) return Value();
  if (!expr.filter) return Fail(Cat("there is no filter named '", expr.name, "'"));
  Value value = expr.filter->call(*this, subject, args);
  return ok() ? value : Value();
}

Value Evaluator::EvalTest(const Expr& expr) {
  const Value subject = Eval(*expr.args[0]);
  CallArgs args = EvalArgs(expr.call);
  line_ = expr.line;
  if (!ok()) return Value();
  if (!expr.test) return Fail(Cat("there is no test named '", expr.name, "'"));
  return Value(expr.test->call(*this, subject, args));
}

}  // namespace finetuned::text::jinja
