#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "engine/text/jinja_format.h"
#include "engine/text/jinja_runtime.h"

// Operators of jinja_runtime.h.
namespace finetuned::text::jinja {
namespace {

const char* Symbol(ExprKind op) {
  switch (op) {
    case ExprKind::kAdd:
      return "+";
    case ExprKind::kSub:
      return "-";
    case ExprKind::kMul:
      return "*";
    case ExprKind::kDiv:
      return "/";
    case ExprKind::kFloorDiv:
      return "//";
    case ExprKind::kMod:
      return "%";
    default:
      return "**";
  }
}

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0 && (a % b < 0) != (b < 0)) ? 1 : 0);
}

// False on overflow. REQUIRES: exponent >= 0.
bool IntPower(int64_t base, int64_t exponent, int64_t* out) {
  *out = 1;
  if (base == 0 || base == 1) {
    *out = exponent == 0 ? 1 : base;
    return true;
  }
  if (base == -1) {
    *out = exponent % 2 == 0 ? 1 : -1;
    return true;
  }
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(*out, base, out)) return false;
  }
  return true;
}

// False on overflow. REQUIRES: no division by zero, op is not kDiv, a power is not negative.
bool IntOperation(ExprKind op, int64_t a, int64_t b, int64_t* out) {
  switch (op) {
    case ExprKind::kAdd:
      return !__builtin_add_overflow(a, b, out);
    case ExprKind::kSub:
      return !__builtin_sub_overflow(a, b, out);
    case ExprKind::kMul:
      return !__builtin_mul_overflow(a, b, out);
    case ExprKind::kPow:
      return IntPower(a, b, out);
    default:
      break;
  }
  if (b == -1) {  // INT64_MIN / -1 overflows
    *out = 0;
    return op == ExprKind::kMod || !__builtin_sub_overflow(int64_t{0}, a, out);
  }
  *out = op == ExprKind::kFloorDiv ? FloorDivide(a, b) : a - FloorDivide(a, b) * b;
  return true;
}

double FloatOperation(ExprKind op, double a, double b) {
  switch (op) {
    case ExprKind::kAdd:
      return a + b;
    case ExprKind::kSub:
      return a - b;
    case ExprKind::kMul:
      return a * b;
    case ExprKind::kDiv:
      return a / b;
    case ExprKind::kPow:
      return std::pow(a, b);
    case ExprKind::kFloorDiv:
      return std::floor(a / b);
    default: {
      const double rest = std::fmod(a, b);
      return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    }
  }
}

Value Numbers(Runtime& runtime, ExprKind op, const Value& a, const Value& b) {
  const bool divides = op == ExprKind::kDiv || op == ExprKind::kFloorDiv || op == ExprKind::kMod;
  if (divides && b.as_double() == 0) return runtime.Fail("division by zero");
  const bool negative_power = op == ExprKind::kPow && b.as_double() < 0;
  if (negative_power && a.as_double() == 0) return runtime.Fail("division by zero");
  if (a.integral() && b.integral() && op != ExprKind::kDiv && !negative_power) {
    int64_t result = 0;
    if (!IntOperation(op, a.as_int(), b.as_int(), &result)) {
      return runtime.Fail("an integer does not fit 64 bits");
    }
    return Value(result);
  }
  const double result = FloatOperation(op, a.as_double(), b.as_double());
  if (op == ExprKind::kPow && std::isnan(result)) return runtime.Fail("not a real number");
  return Value(result);
}

Value Repeat(Runtime& runtime, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const auto size =
      static_cast<int64_t>(value.string() ? value.bytes().size() : value.seq()->items.size());
  int64_t total = 0;
  if (__builtin_mul_overflow(size, count, &total)) total = std::numeric_limits<int64_t>::max();
  if (value.string()) {
    if (!runtime.FitsOutput(static_cast<size_t>(total)) || !runtime.Charge(total / 16)) return {};
    StrBuilder out;
    for (int64_t i = 0; size > 0 && i < count; ++i) out.Append(value.str());
    Str text = out.Take();
    text.markup = value.str().markup;
    return runtime.String(std::move(text));
  }
  if (!runtime.Charge(total)) return {};
  std::vector<Value> items;
  for (int64_t i = 0; size > 0 && i < count; ++i) {
    items.insert(items.end(), value.seq()->items.begin(), value.seq()->items.end());
  }
  return runtime.Seq(value.seq()->kind, std::move(items));
}

Value Concatenate(Runtime& runtime, const Value& a, const Value& b) {
  if (!runtime.FitsOutput(a.bytes().size() + b.bytes().size())) return {};
  const bool markup = a.str().markup || b.str().markup;
  StrBuilder out;
  out.Append(markup ? EscapeHtml(a.str()) : a.str());
  out.Append(markup ? EscapeHtml(b.str()) : b.str());
  Str text = out.Take();
  text.markup = markup;
  return runtime.String(std::move(text));
}

bool IsListOrTuple(const Value& value) {
  return value.is(Kind::kSequence) && value.seq()->kind <= SeqKind::kTuple;
}

}  // namespace

Value Runtime::Binary(ExprKind op, const Value& a, const Value& b) {
  if (!ok()) return Value();
  if (op == ExprKind::kMod && a.string()) return PercentFormat(*this, a, b);
  if (a.undefined()) return FailUndefined(a);
  if (b.undefined()) return FailUndefined(b);
  if (a.number() && b.number()) return Numbers(*this, op, a, b);
  if (op == ExprKind::kAdd) {
    if (a.string() && b.string()) return Concatenate(*this, a, b);
    if (IsListOrTuple(a) && IsListOrTuple(b) && a.seq()->kind == b.seq()->kind) {
      if (!Charge(static_cast<int64_t>(a.seq()->items.size() + b.seq()->items.size()))) return {};
      std::vector<Value> items = a.seq()->items;
      items.insert(items.end(), b.seq()->items.begin(), b.seq()->items.end());
      return Seq(a.seq()->kind, std::move(items));
    }
  }
  if (op == ExprKind::kMul) {
    if ((a.string() || IsListOrTuple(a)) && b.integral()) return Repeat(*this, a, b.as_int());
    if ((b.string() || IsListOrTuple(b)) && a.integral()) return Repeat(*this, b, a.as_int());
  }
  if (op == ExprKind::kAdd && a.string()) {
    return Fail(Cat("can only concatenate str (not \"", TypeName(b), "\") to str"));
  }
  return Fail(Cat("unsupported operand types for ", Symbol(op), ": '", TypeName(a), "' and '",
                  TypeName(b), "'"));
}

Value Runtime::Unary(ExprKind op, const Value& a) {
  if (!ok()) return Value();
  if (!a.number()) return FailType("a sign needs a number", a);
  if (op == ExprKind::kPos) return a.is(Kind::kBool) ? Value(a.as_int()) : a;
  if (a.is(Kind::kFloat)) return Value(-a.as_double());
  int64_t result = 0;
  if (__builtin_sub_overflow(int64_t{0}, a.as_int(), &result)) {
    return Fail("an integer does not fit 64 bits");
  }
  return Value(result);
}

bool Runtime::Equals(const Value& a, const Value& b) {
  return Charge(std::min(Weight(a), Weight(b))) && Equal(a, b);
}

bool Runtime::LessThan(const Value& a, const Value& b) {
  if (!Charge(std::min(Weight(a), Weight(b)))) return false;
  std::string error;
  const bool less = Less(a, b, &error);
  if (!error.empty()) Fail(error);
  return less;
}

bool Runtime::Compare(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kEq:
      return Equals(a, b);
    case CompareOp::kNe:
      return ok() && !Equals(a, b);
    case CompareOp::kLt:
      return LessThan(a, b);
    case CompareOp::kGt:
      return LessThan(b, a);
    case CompareOp::kLe:
      return LessThan(a, b) || (ok() && Equals(a, b));
    case CompareOp::kGe:
      return LessThan(b, a) || (ok() && Equals(a, b));
    case CompareOp::kIn:
      return Contains(b, a);
    case CompareOp::kNotIn:
      return !Contains(b, a);
  }
  return false;
}

bool Runtime::Contains(const Value& container, const Value& item) {
  if (!ok()) return false;
  if (container.string()) {
    if (!item.string()) {
      Fail(Cat("'in <string>' requires string as left operand, not ", TypeName(item)));
      return false;
    }
    const std::string& text = container.bytes();
    const std::string& wanted = item.bytes();
    return Charge(Weight(container) + Weight(item)) &&
           memmem(text.data(), text.size(), wanted.data(), wanted.size()) != nullptr;
  }
  if (container.is(Kind::kDict)) {
    if (!Hashable(item)) {
      Fail(Cat("unhashable type: '", TypeName(item), "'"));
      return false;
    }
    return Charge(Weight(item)) && container.dict().Find(item) != nullptr;
  }
  if (container.is(Kind::kSequence) && container.seq()->kind != SeqKind::kIterator) {
    for (const Value& candidate : container.seq()->items) {
      if (!Charge(1)) return false;
      if (Equals(candidate, item)) return true;
    }
    return false;
  }
  if (container.is(Kind::kSequence)) {
    Sequence& seq = *container.seq();
    while (seq.next < seq.items.size() && ok()) {
      if (Equals(seq.items[seq.next++], item)) return true;
    }
    return false;
  }
  if (!container.undefined()) {
    Fail(Cat("argument of type '", TypeName(container), "' is not iterable"));
  }
  return false;
}

std::vector<Value> Runtime::Sorted(std::vector<Value> items, std::vector<Value> keys,
                                   bool reverse) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // Merge sort by hand: the comparison may fail, which std::stable_sort does not allow.
  std::vector<size_t> merged(order.size());
  for (size_t width = 1; width < order.size() && ok(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order.size());
      const size_t end = std::min(begin + 2 * width, order.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t i = begin; i < end; ++i) {
        bool take_right = left == middle;
        if (!take_right && right < end) {
          take_right = reverse ? LessThan(keys[order[left]], keys[order[right]])
                               : LessThan(keys[order[right]], keys[order[left]]);
        }
        merged[i] = order[take_right ? right++ : left++];
      }
    }
    order.swap(merged);
  }
  std::vector<Value> out;
  for (const size_t i : order) out.push_back(std::move(items[i]));
  return out;
}

}  // namespace finetuned::text::jinja
