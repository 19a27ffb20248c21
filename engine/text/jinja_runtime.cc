#include "engine/text/jinja_runtime.h"

#include <algorithm>

#include "engine/text/jinja_builtins.h"

namespace finetuned::text::jinja {
namespace {

constexpr int64_t kStepsPerCharacter = 4;  // of a string taken apart: each becomes a string

// Bounds of object[start:stop:step] for a length, as slice.indices.
struct SliceBounds {
  int64_t start, stop, step;
};

int64_t ClampIndex(int64_t index, int64_t length, int64_t low, int64_t high) {
  if (index < 0) index += length;
  return std::clamp(index, low, high);
}

SliceBounds Normalize(const Value* start, const Value* stop, int64_t step, int64_t length) {
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? length - 1 : length;
  const auto pick = [&](const Value* bound, int64_t otherwise) {
    if (bound == nullptr || bound->none()) return otherwise;
    const int64_t index = std::clamp(bound->as_int(), -length - 1, length + 1);
    return ClampIndex(index, length, low, high);
  };
  return {pick(start, step < 0 ? high : low), pick(stop, step < 0 ? low : high), step};
}

std::vector<int64_t> Indices(const SliceBounds& bounds) {
  std::vector<int64_t> out;
  for (int64_t i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop;) {
    out.push_back(i);
    if (__builtin_add_overflow(i, bounds.step, &i)) break;
  }
  return out;
}

Str SliceString(const Str& text, const SliceBounds& bounds) {
  if (bounds.step == 1) {
    const size_t begin = ByteOffset(text.bytes, bounds.start);
    if (bounds.stop <= bounds.start) return Slice(text, begin, begin);
    const std::string_view rest = std::string_view(text.bytes).substr(begin);
    return Slice(text, begin, begin + ByteOffset(rest, bounds.stop - bounds.start));
  }
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.bytes.size(); at += CodePointBytes(text.bytes, at)) {
    starts.push_back(at);
  }
  StrBuilder out;
  for (const int64_t i : Indices(bounds)) {
    const size_t at = starts[static_cast<size_t>(i)];
    out.AppendSlice(text, at, at + CodePointBytes(text.bytes, at));
  }
  return out.Take();
}

}  // namespace

Runtime::~Runtime() {
  for (const auto& ns : namespaces_) ns->attributes = Dict();
}

Value Runtime::Fail(std::string_view message) {
  if (ok()) {
    status_ = absl::InvalidArgumentError(Cat("chat template, line ", line_, ": ", message));
  }
  return Value();
}

Value Runtime::Exhaust(std::string_view message) {
  if (ok()) {
    status_ = absl::ResourceExhaustedError(Cat("chat template, line ", line_, ": ", message));
  }
  return Value();
}

Value Runtime::FailUndefined(const Value& undefined) {
  const auto& hint = undefined.as_undefined().hint;
  return Fail(hint ? *hint : std::string("an undefined value was used"));
}

Value Runtime::FailType(std::string_view what, const Value& value) {
  if (value.undefined()) return FailUndefined(value);
  return Fail(Cat(what, ", found '", TypeName(value), "'"));
}

bool Runtime::Charge(int64_t steps) {
  if (__builtin_add_overflow(steps_, steps, &steps_) || steps_ > limits_.max_steps) {
    steps_ = limits_.max_steps;
    Exhaust(Cat("rendering took more than ", limits_.max_steps, " steps"));
  }
  return ok();
}

bool Runtime::Enter() {
  if (++nesting_ > kMaxStack) {
    Exhaust(Cat("macros and expressions are nested more than ", kMaxStack, " deep"));
  }
  return ok();
}

bool Runtime::FitsOutput(size_t bytes) {
  if (bytes > limits_.max_output_bytes) {
    Exhaust(Cat("a text grew beyond ", limits_.max_output_bytes, " bytes"));
  }
  return ok();
}

Value Runtime::String(Str text) {
  if (!FitsOutput(text.bytes.size()) || !Charge(1 + text.bytes.size() / kBytesPerStep)) {
    return Value();
  }
  return Value(std::move(text));
}

Value Runtime::Seq(SeqKind kind, std::vector<Value> items) {
  if (!Charge(1 + static_cast<int64_t>(items.size()))) return Value();
  auto seq = MakeSequence(kind, std::move(items));
  if (seq->depth > limits_.max_depth) {
    return Exhaust(Cat("a list is nested more than ", limits_.max_depth, " deep"));
  }
  return Value(std::move(seq));
}

Value Runtime::FinishDict(std::shared_ptr<Dict> dict) {
  if (!Charge(1 + static_cast<int64_t>(dict->entries.size()))) return Value();
  if (dict->depth > limits_.max_depth) {
    return Exhaust(Cat("a dict is nested more than ", limits_.max_depth, " deep"));
  }
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

Value Runtime::NewNamespace() {
  if (!Charge(1)) return Value();
  namespaces_.push_back(std::make_shared<Namespace>());
  return Value(namespaces_.back());
}

Value Runtime::MakeUndefined(std::string hint) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(hint))});
}

bool Runtime::SetItem(Dict* dict, const Value& key, Value value) {
  if (!Charge(1 + Weight(key))) return false;
  if (!Hashable(key)) {
    Fail(Cat("unhashable type: '", TypeName(key), "'"));
    return false;
  }
  dict->Set(key, std::move(value));
  return true;
}

Value Runtime::GetAttr(const Value& object, const std::string& name) {
  if (!ok()) return Value();
  if (object.undefined()) return FailUndefined(object);
  if (object.is(Kind::kNamespace)) {
    if (const Value* found = object.ns().attributes.Find(name)) return *found;
  } else if (object.is(Kind::kLoop)) {
    return LoopAttr(&object.loop(), name);
  } else {
    switch (FindMethod(object, name)) {
      case MethodState::kCallable:
        return Value(std::make_shared<const Method>(Method{object, name}));
      case MethodState::kUnsafe:
        return MakeUndefined(
            Cat("access to attribute '", name, "' of '", TypeName(object), "' object is unsafe."));
      case MethodState::kUnsupported:
        return Fail(
            Cat("the attribute '", name, "' of a '", TypeName(object), "' is not supported"));
      case MethodState::kNone:
        break;
    }
    if (object.is(Kind::kDict)) {
      if (const Value* found = object.dict().Find(name)) return *found;
    }
  }
  return MakeUndefined(Cat("'", TypeName(object), " object' has no attribute '", name, "'"));
}

Value Runtime::GetItem(const Value& object, const Value& key) {
  if (!ok()) return Value();
  if (object.undefined()) return FailUndefined(object);
  if (object.is(Kind::kDict)) {
    if (!Charge(Weight(key))) return Value();
    if (Hashable(key)) {
      if (const Value* found = object.dict().Find(key)) return *found;
    }
  } else if (key.integral() && (object.is(Kind::kSequence) || object.string())) {
    return IndexSequence(object, key.as_int());
  }
  if (key.string()) return GetAttr(object, key.bytes());
  StrBuilder shown;
  AppendRepr(key, &shown);
  return MakeUndefined(Cat("'", TypeName(object), " object' has no element ", shown.str().bytes));
}

Value Runtime::IndexSequence(const Value& object, int64_t index) {
  if (object.string()) {
    const Str& text = object.str();
    if (!Charge(1 + text.bytes.size() / kBytesPerStep)) return Value();
    const int64_t length = CountCodePoints(text.bytes);
    if (index < 0) index += length;
    if (index >= 0 && index < length) {
      const size_t at = ByteOffset(text.bytes, index);
      return String(Slice(text, at, at + CodePointBytes(text.bytes, at)));
    }
  } else if (object.seq()->indexable()) {
    const auto& items = object.seq()->items;
    if (index < 0) index += static_cast<int64_t>(items.size());
    if (index >= 0 && index < static_cast<int64_t>(items.size())) {
      return items[static_cast<size_t>(index)];
    }
  }
  return MakeUndefined(Cat("'", TypeName(object), " object' has no element ", index));
}

Value Runtime::GetSlice(const Value& object, const Value* start, const Value* stop,
                        const Value* step) {
  if (!ok()) return Value();
  for (const Value* bound : {start, stop, step}) {
    if (bound != nullptr && !bound->none() && !bound->integral()) {
      return FailType("slice indices must be integers or none", *bound);
    }
  }
  const int64_t stride = step == nullptr || step->none() ? 1 : step->as_int();
  if (stride == 0) return Fail("slice step cannot be zero");
  if (object.string()) {
    if (!Charge(1 + object.bytes().size() / (stride == 1 ? kBytesPerStep : 1))) return Value();
    return String(
        SliceString(object.str(), Normalize(start, stop, stride, CountCodePoints(object.bytes()))));
  }
  if (!object.is(Kind::kSequence) || !object.seq()->indexable()) {
    return FailType("only strings and lists can be sliced", object);
  }
  const auto& items = object.seq()->items;
  std::vector<Value> out;
  for (const int64_t i :
       Indices(Normalize(start, stop, stride, static_cast<int64_t>(items.size())))) {
    out.push_back(items[static_cast<size_t>(i)]);
  }
  return Seq(object.seq()->kind == SeqKind::kTuple ? SeqKind::kTuple : SeqKind::kList,
             std::move(out));
}

std::vector<Value> Runtime::Items(const Value& value) {
  std::vector<Value> out;
  if (!ok() || value.undefined()) return out;
  if (value.is(Kind::kSequence)) {
    Sequence& seq = *value.seq();
    if (!Charge(static_cast<int64_t>(seq.items.size() - seq.next))) return out;
    out.assign(seq.items.begin() + static_cast<std::ptrdiff_t>(seq.next), seq.items.end());
    if (seq.kind == SeqKind::kIterator) seq.next = seq.items.size();
  } else if (value.is(Kind::kDict)) {
    if (!Charge(static_cast<int64_t>(value.dict().entries.size()))) return out;
    for (const auto& [key, item] : value.dict().entries) out.push_back(key);
  } else if (value.string()) {
    const Str& text = value.str();
    if (!Charge(kStepsPerCharacter * static_cast<int64_t>(text.bytes.size()))) return out;
    for (size_t at = 0; at < text.bytes.size();) {
      const size_t bytes = CodePointBytes(text.bytes, at);
      out.push_back(Value(Slice(text, at, at + bytes)));
      at += bytes;
    }
  } else if (value.is(Kind::kLoop)) {
    Fail("the variable 'loop' cannot be iterated");
  } else {
    Fail(Cat("'", TypeName(value), "' object is not iterable"));
  }
  return out;
}

int64_t Runtime::Length(const Value& value) {
  if (!ok()) return -1;
  if (value.undefined()) return 0;
  if (value.string()) {
    Charge(value.bytes().size() / kBytesPerStep);
    return CountCodePoints(value.bytes());
  }
  if (value.is(Kind::kDict)) return static_cast<int64_t>(value.dict().entries.size());
  if (value.is(Kind::kSequence) && value.seq()->kind != SeqKind::kIterator) {
    return static_cast<int64_t>(value.seq()->items.size());
  }
  if (value.is(Kind::kLoop)) return LoopAttr(&value.loop(), "length").as_int();
  Fail(Cat("object of type '", TypeName(value), "' has no len()"));
  return -1;
}

bool Runtime::Peek(Loop* loop, Value* item) {
  if (loop->ahead.empty()) {
    Value next;
    if (!loop->pull || !loop->pull(&next)) return false;
    loop->ahead.push_back(std::move(next));
  }
  *item = loop->ahead.back();
  return true;
}

Value Runtime::LoopAttr(Loop* loop, const std::string& name) {
  Value item;
  if (name == "index") return Value(loop->index0 + 1);
  if (name == "index0") return Value(loop->index0);
  if (name == "first") return Value(loop->index0 == 0);
  if (name == "last") return Value(!Peek(loop, &item));
  if (name == "previtem") {
    return loop->index0 == 0 ? MakeUndefined("there is no previous item") : loop->before;
  }
  if (name == "nextitem") {
    return Peek(loop, &item) ? item : MakeUndefined("there is no next item");
  }
  if (name == "depth") return Value(loop->depth0 + 1);
  if (name == "depth0") return Value(loop->depth0);
  if (name == "cycle" || name == "changed") {
    return Fail(Cat("loop.", name, " is not supported"));
  }
  if (name != "length" && name != "revindex" && name != "revindex0") {
    return MakeUndefined(Cat("'loop' has no attribute '", name, "'"));
  }
  if (loop->length < 0) {  // a filtered loop or an iterator: look at all that is left
    std::vector<Value> rest;
    for (Value next; loop->pull && loop->pull(&next);) rest.push_back(std::move(next));
    loop->ahead.insert(loop->ahead.begin(), rest.rbegin(), rest.rend());
    loop->length = loop->index0 + 1 + static_cast<int64_t>(loop->ahead.size());
  }
  if (name == "length") return Value(loop->length);
  return Value(loop->length - loop->index0 - (name == "revindex0" ? 1 : 0));
}

Value Runtime::Call(const Value& callee, CallArgs& args) {
  if (!ok() || !Charge(1)) return Value();
  switch (callee.kind()) {
    case Kind::kUndefined:
      return FailUndefined(callee);
    case Kind::kMacro:
      return CallMacro(callee.macro(), args);
    case Kind::kMethod:
      return CallMethod(*this, callee.method(), args);
    case Kind::kFunction:
      return callee.function().call(*this, args);
    default:
      return Fail(Cat("'", TypeName(callee), "' object is not callable"));
  }
}

std::vector<Value> Runtime::Bind(std::string_view function, CallArgs& args,
                                 std::initializer_list<std::string_view> names, size_t required) {
  std::vector<Value> bound(names.size());
  if (args.positional.size() > names.size()) {
    Fail(Cat(function, " takes at most ", names.size(), " arguments, ", args.positional.size(),
             " were given"));
    return bound;
  }
  std::move(args.positional.begin(), args.positional.end(), bound.begin());
  for (auto& [name, value] : args.named) {
    const auto place = std::find(names.begin(), names.end(), name);
    const auto index = static_cast<size_t>(place - names.begin());
    if (place == names.end() || index < args.positional.size()) {
      Fail(Cat(function, " got an unexpected argument '", name, "'"));
      return bound;
    }
    bound[index] = std::move(value);
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i].missing()) {
      Fail(Cat(function, " misses its argument '", names.begin()[i], "'"));
    }
  }
  return bound;
}

int64_t Runtime::IntArg(const Value& value, int64_t otherwise) {
  if (value.missing()) return otherwise;
  if (value.integral()) return value.as_int();
  FailType("expected an integer", value);
  return otherwise;
}

}  // namespace finetuned::text::jinja
