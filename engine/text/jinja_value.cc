#include "engine/text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finetuned::text::jinja {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

int64_t AddSaturating(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

bool NumbersEqual(const Value& a, const Value& b) {
  if (a.integral() && b.integral()) return a.as_int() == b.as_int();
  return a.as_double() == b.as_double();
}

bool DictsEqual(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other)) return false;
  }
  return true;
}

bool SequencesEqual(const std::shared_ptr<Sequence>& a, const std::shared_ptr<Sequence>& b) {
  if (a == b) return true;
  if (a->kind != b->kind || !a->indexable() || a->items.size() != b->items.size()) return false;
  for (size_t i = 0; i < a->items.size(); ++i) {
    if (!Equal(a->items[i], b->items[i])) return false;
  }
  return true;
}

}  // namespace

const char* TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kSequence:
      switch (value.seq()->kind) {
        case SeqKind::kList:
          return "list";
        case SeqKind::kTuple:
          return "tuple";
        case SeqKind::kRange:
          return "range";
        case SeqKind::kKeys:
          return "dict_keys";
        case SeqKind::kValues:
          return "dict_values";
        case SeqKind::kItems:
          return "dict_items";
        case SeqKind::kIterator:
          return "generator";
      }
      return "sequence";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kMacro:
      return "Macro";
    case Kind::kMethod:
      return "builtin_function_or_method";
    case Kind::kFunction:
      return "function";
    case Kind::kLoop:
      return "LoopContext";
  }
  return "object";
}

bool Truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_double() != 0;
    case Kind::kString:
      return !value.bytes().empty();
    case Kind::kSequence:
      return value.seq()->kind == SeqKind::kIterator || !value.seq()->items.empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    default:
      return true;
  }
}

bool Hashable(const Value& value) {
  if (value.is(Kind::kDict)) return false;
  if (!value.is(Kind::kSequence)) return true;
  const Sequence& seq = *value.seq();
  if (seq.kind == SeqKind::kRange || seq.kind == SeqKind::kIterator) return true;
  return seq.kind == SeqKind::kTuple && std::all_of(seq.items.begin(), seq.items.end(), Hashable);
}

size_t Hash(const Value& value) {
  switch (value.kind()) {
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>{}(value.as_int());
    case Kind::kFloat: {
      const double number = value.as_double();
      if (std::floor(number) == number && std::abs(number) < kTwoTo63) {
        return std::hash<int64_t>{}(static_cast<int64_t>(number));
      }
      return std::hash<double>{}(number);
    }
    case Kind::kString:
      return std::hash<std::string_view>{}(value.bytes());
    case Kind::kSequence: {
      size_t hash = value.seq()->items.size();
      for (const Value& item : value.seq()->items) {
        hash = hash * 1000003 + (Hashable(item) ? Hash(item) : 1);
      }
      return hash;
    }
    default:
      return static_cast<size_t>(value.kind());
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.number() && b.number()) return NumbersEqual(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.bytes() == b.bytes();
    case Kind::kSequence:
      return SequencesEqual(a.seq(), b.seq());
    case Kind::kDict:
      return &a.dict() == &b.dict() || DictsEqual(a.dict(), b.dict());
    case Kind::kNamespace:
      return &a.ns() == &b.ns();
    case Kind::kMacro:
      return &a.macro() == &b.macro();
    case Kind::kFunction:
      return &a.function() == &b.function();
    case Kind::kLoop:
      return &a.loop() == &b.loop();
    case Kind::kMethod:
      return a.method().name == b.method().name && Equal(a.method().self, b.method().self);
    default:
      return false;
  }
}

bool Less(const Value& a, const Value& b, std::string* error) {
  if (a.number() && b.number()) {
    if (a.integral() && b.integral()) return a.as_int() < b.as_int();
    return a.as_double() < b.as_double();
  }
  if (a.string() && b.string()) return a.bytes() < b.bytes();
  if (a.is(Kind::kSequence) && b.is(Kind::kSequence) && a.seq()->kind == b.seq()->kind &&
      a.seq()->kind <= SeqKind::kTuple) {
    const auto& left = a.seq()->items;
    const auto& right = b.seq()->items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!Equal(left[i], right[i])) return Less(left[i], right[i], error);
    }
    return left.size() < right.size();
  }
  if (a.undefined() || b.undefined()) {
    const auto& hint = (a.undefined() ? a : b).as_undefined().hint;
    *error = hint ? *hint : "an undefined value cannot be compared";
  } else {
    *error =
        Cat("'<' not supported between instances of '", TypeName(a), "' and '", TypeName(b), "'");
  }
  return false;
}

int Depth(const Value& value) {
  if (value.is(Kind::kSequence)) return value.seq()->depth;
  if (value.is(Kind::kDict)) return value.dict().depth;
  if (value.is(Kind::kMethod)) return 1 + Depth(value.method().self);
  return 0;
}

int64_t Weight(const Value& value) {
  if (value.string()) return 1 + static_cast<int64_t>(value.bytes().size()) / kBytesPerStep;
  if (value.is(Kind::kSequence)) return value.seq()->weight;
  if (value.is(Kind::kDict)) return value.dict().weight;
  if (value.is(Kind::kMethod)) return AddSaturating(1, Weight(value.method().self));
  return 1;
}

std::shared_ptr<Sequence> MakeSequence(SeqKind kind, std::vector<Value> items) {
  auto seq = std::make_shared<Sequence>();
  seq->kind = kind;
  for (const Value& item : items) {
    seq->depth = std::max(seq->depth, 1 + Depth(item));
    seq->weight = AddSaturating(seq->weight, Weight(item));
  }
  seq->items = std::move(items);
  return seq;
}

const Value* Dict::Find(const Value& key) const {
  if (entries.size() <= kLinear) {
    for (const auto& entry : entries) {
      if (Equal(entry.first, key)) return &entry.second;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(Hash(key));
  for (auto it = begin; it != end; ++it) {
    if (Equal(entries[it->second].first, key)) return &entries[it->second].second;
  }
  return nullptr;
}

const Value* Dict::Find(std::string_view key) const {
  if (entries.size() <= kLinear) {
    for (const auto& entry : entries) {
      if (entry.first.string() && entry.first.bytes() == key) return &entry.second;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(std::hash<std::string_view>{}(key));
  for (auto it = begin; it != end; ++it) {
    const auto& entry = entries[it->second];
    if (entry.first.string() && entry.first.bytes() == key) return &entry.second;
  }
  return nullptr;
}

void Dict::Set(const Value& key, Value value) {
  depth = std::max({depth, 1 + Depth(key), 1 + Depth(value)});
  weight = AddSaturating(weight, AddSaturating(Weight(key), Weight(value)));
  if (const Value* found = Find(key)) {
    *const_cast<Value*>(found) = std::move(value);
    return;
  }
  entries.emplace_back(key, std::move(value));
  if (entries.size() == kLinear + 1) {
    for (size_t i = 0; i < entries.size(); ++i) index_.emplace(Hash(entries[i].first), i);
  } else if (entries.size() > kLinear) {
    index_.emplace(Hash(key), entries.size() - 1);
  }
}

}  // namespace finetuned::text::jinja
