#include <algorithm>
#include <cmath>

#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_string_ops.h"

// `value is NAME(args)`.
namespace finetuned::text::jinja {
namespace {

// The single argument of a test; missing() after an error.
Value Operand(Runtime& runtime, CallArgs& args) {
  return runtime.Bind("this test", args, {"other"}, 1)[0];
}

template <CompareOp kOp>
bool Comparison(Runtime& runtime, const Value& value, CallArgs& args) {
  const Value other = Operand(runtime, args);
  return runtime.ok() && runtime.Compare(kOp, value, other);
}

template <bool (*kPredicate)(const Value&)>
bool Simple(Runtime& runtime, const Value& value, CallArgs& args) {
  runtime.Bind("this test", args, {});
  return kPredicate(value);
}

bool IsDefined(const Value& v) { return !v.undefined(); }
bool IsUndefined(const Value& v) { return v.undefined(); }
bool IsNone(const Value& v) { return v.none(); }
bool IsBoolean(const Value& v) { return v.is(Kind::kBool); }
bool IsTrue(const Value& v) { return v.is(Kind::kBool) && v.as_bool(); }
bool IsFalse(const Value& v) { return v.is(Kind::kBool) && !v.as_bool(); }
bool IsInteger(const Value& v) { return v.is(Kind::kInt); }
bool IsFloat(const Value& v) { return v.is(Kind::kFloat); }
bool IsNumber(const Value& v) { return v.number(); }
bool IsString(const Value& v) { return v.string(); }
bool IsMapping(const Value& v) { return v.is(Kind::kDict); }
bool IsEscaped(const Value& v) { return v.string() && v.str().markup; }
bool IsIterable(const Value& v) {
  return v.undefined() || v.string() || v.is(Kind::kSequence) || v.is(Kind::kDict) ||
         v.is(Kind::kLoop);
}
bool IsSequence(const Value& v) {
  return v.undefined() || v.string() || v.is(Kind::kDict) ||
         (v.is(Kind::kSequence) && v.seq()->indexable());
}
bool IsCallable(const Value& v) {
  return v.undefined() || v.is(Kind::kMacro) || v.is(Kind::kMethod) || v.is(Kind::kFunction) ||
         v.is(Kind::kLoop);
}

template <CaseMap kCase>
bool HasCase(Runtime& runtime, const Value& value, CallArgs& args) {
  runtime.Bind("this test", args, {});
  return runtime.ok() && IsCase(runtime.ToStr(value), kCase);
}

bool Divisible(Runtime& runtime, const Value& value, const Value& by, int64_t rest) {
  const Value result = runtime.Binary(ExprKind::kMod, value, by);
  return runtime.ok() && runtime.Equals(result, Value(rest));
}

bool IsOdd(Runtime& runtime, const Value& value, CallArgs&) {
  return Divisible(runtime, value, Value(2), 1);
}
bool IsEven(Runtime& runtime, const Value& value, CallArgs&) {
  return Divisible(runtime, value, Value(2), 0);
}
bool IsDivisibleBy(Runtime& runtime, const Value& value, CallArgs& args) {
  const Value by = Operand(runtime, args);
  return runtime.ok() && Divisible(runtime, value, by, 0);
}

bool IsSameAs(Runtime& runtime, const Value& value, CallArgs& args) {
  const Value other = Operand(runtime, args);
  if (value.kind() != other.kind()) return false;
  if (value.is(Kind::kSequence)) return value.seq() == other.seq();
  if (value.is(Kind::kDict)) return &value.dict() == &other.dict();
  return runtime.Equals(value, other);
}

bool IsFilterName(Runtime&, const Value& value, CallArgs&) {
  return value.string() && FindFilter(value.bytes()) != nullptr;
}
bool IsTestName(Runtime&, const Value& value, CallArgs&) {
  return value.string() && FindTest(value.bytes()) != nullptr;
}

constexpr TestDef kTests[] = {
    {"defined", Simple<IsDefined>},
    {"undefined", Simple<IsUndefined>},
    {"none", Simple<IsNone>},
    {"boolean", Simple<IsBoolean>},
    {"true", Simple<IsTrue>},
    {"false", Simple<IsFalse>},
    {"integer", Simple<IsInteger>},
    {"float", Simple<IsFloat>},
    {"number", Simple<IsNumber>},
    {"string", Simple<IsString>},
    {"mapping", Simple<IsMapping>},
    {"iterable", Simple<IsIterable>},
    {"sequence", Simple<IsSequence>},
    {"callable", Simple<IsCallable>},
    {"escaped", Simple<IsEscaped>},
    {"upper", HasCase<CaseMap::kUpper>},
    {"lower", HasCase<CaseMap::kLower>},
    {"odd", IsOdd},
    {"even", IsEven},
    {"divisibleby", IsDivisibleBy},
    {"sameas", IsSameAs},
    {"filter", IsFilterName},
    {"test", IsTestName},
    {"in", Comparison<CompareOp::kIn>},
    {"eq", Comparison<CompareOp::kEq>},
    {"==", Comparison<CompareOp::kEq>},
    {"equalto", Comparison<CompareOp::kEq>},
    {"ne", Comparison<CompareOp::kNe>},
    {"!=", Comparison<CompareOp::kNe>},
    {"lt", Comparison<CompareOp::kLt>},
    {"<", Comparison<CompareOp::kLt>},
    {"lessthan", Comparison<CompareOp::kLt>},
    {"le", Comparison<CompareOp::kLe>},
    {"<=", Comparison<CompareOp::kLe>},
    {"gt", Comparison<CompareOp::kGt>},
    {">", Comparison<CompareOp::kGt>},
    {"greaterthan", Comparison<CompareOp::kGt>},
    {"ge", Comparison<CompareOp::kGe>},
    {">=", Comparison<CompareOp::kGe>},
};

}  // namespace

const TestDef* FindTest(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTests), std::end(kTests),
                                   [name](const TestDef& test) { return test.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

}  // namespace finetuned::text::jinja
