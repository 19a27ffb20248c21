#include <algorithm>
#include <array>

#include "engine/text/jinja_builtins.h"

// Methods of dicts, lists and tuples, and which attributes Python objects have.
namespace finetuned::text::jinja {
namespace {

bool OneOf(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

MethodState FindStringMethod(std::string_view name) {
  if (OneOf(name, {"upper",        "lower",     "capitalize", "title",   "swapcase", "casefold",
                   "strip",        "lstrip",    "rstrip",     "split",   "rsplit",   "splitlines",
                   "startswith",   "endswith",  "replace",    "find",    "rfind",    "index",
                   "rindex",       "count",     "join",       "format",  "isdigit",  "isdecimal",
                   "isnumeric",    "isalpha",   "isalnum",    "isspace", "isupper",  "islower",
                   "isascii",      "center",    "ljust",      "rjust",   "zfill",    "removeprefix",
                   "removesuffix", "partition", "rpartition"})) {
    return MethodState::kCallable;
  }
  return OneOf(name, {"encode", "expandtabs", "format_map", "isidentifier", "isprintable",
                      "istitle", "maketrans", "translate"})
             ? MethodState::kUnsupported
             : MethodState::kNone;
}

MethodState FindDictMethod(std::string_view name) {
  if (OneOf(name, {"get", "items", "keys", "values", "copy"})) return MethodState::kCallable;
  if (OneOf(name, {"clear", "pop", "popitem", "setdefault", "update"})) {
    return MethodState::kUnsafe;
  }
  return name == "fromkeys" ? MethodState::kUnsupported : MethodState::kNone;
}

MethodState FindSequenceMethod(SeqKind kind, std::string_view name) {
  const bool list = kind == SeqKind::kList;
  if (kind == SeqKind::kKeys || kind == SeqKind::kValues || kind == SeqKind::kItems) {
    return OneOf(name, {"isdisjoint", "mapping"}) ? MethodState::kUnsupported : MethodState::kNone;
  }
  if (kind == SeqKind::kIterator) {
    return OneOf(name, {"send", "throw", "close"}) ? MethodState::kUnsupported : MethodState::kNone;
  }
  if (OneOf(name, {"count", "index"}) || (list && name == "copy")) return MethodState::kCallable;
  if (list &&
      OneOf(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"})) {
    return MethodState::kUnsafe;
  }
  return kind == SeqKind::kRange && OneOf(name, {"start", "stop", "step"})
             ? MethodState::kUnsupported
             : MethodState::kNone;
}

Value CallDictMethod(Runtime& runtime, const Value& self, std::string_view name, CallArgs& args) {
  const Dict& dict = self.dict();
  if (name == "get") {
    if (!args.named.empty()) return runtime.Fail("dict.get takes no keyword arguments");
    const auto bound = runtime.Bind("dict.get", args, {"key", "default"}, 1);
    if (!runtime.ok()) return Value();
    if (!Hashable(bound[0])) {
      return runtime.Fail(Cat("unhashable type: '", TypeName(bound[0]), "'"));
    }
    if (const Value* found = dict.Find(bound[0])) return *found;
    return bound[1].missing() ? Value(None{}) : bound[1];
  }
  runtime.Bind(Cat("dict.", name), args, {});
  if (!runtime.ok()) return Value();
  if (name == "copy") return self;
  std::vector<Value> out;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      out.push_back(key);
    } else if (name == "values") {
      out.push_back(value);
    } else {
      out.push_back(runtime.Tuple({key, value}));
    }
  }
  const SeqKind kind = name == "keys"     ? SeqKind::kKeys
                       : name == "values" ? SeqKind::kValues
                                          : SeqKind::kItems;
  return runtime.Seq(kind, std::move(out));
}

Value CallSequenceMethod(Runtime& runtime, const Value& self, std::string_view name,
                         CallArgs& args) {
  if (name == "copy") {
    runtime.Bind("list.copy", args, {});
    return self;
  }
  const auto bound = runtime.Bind(Cat("list.", name), args, {"value"}, 1);
  int64_t count = 0;
  const auto& items = self.seq()->items;
  for (size_t i = 0; i < items.size() && runtime.ok(); ++i) {
    if (!runtime.Equals(items[i], bound[0])) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  return name == "index" ? runtime.Fail("list.index: the value is not in the list") : Value(count);
}

}  // namespace

MethodState FindMethod(const Value& object, std::string_view name) {
  if (name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__") {
    return MethodState::kUnsafe;
  }
  switch (object.kind()) {
    case Kind::kString:
      return FindStringMethod(name);
    case Kind::kDict:
      return FindDictMethod(name);
    case Kind::kSequence:
      return FindSequenceMethod(object.seq()->kind, name);
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      return OneOf(name, {"real", "imag", "numerator", "denominator", "conjugate", "bit_length",
                          "bit_count", "to_bytes", "from_bytes", "as_integer_ratio", "is_integer",
                          "hex", "fromhex"})
                 ? MethodState::kUnsupported
                 : MethodState::kNone;
    case Kind::kMacro:
      return OneOf(name, {"name", "arguments", "caller", "catch_kwargs", "catch_varargs"})
                 ? MethodState::kUnsupported
                 : MethodState::kNone;
    default:
      return MethodState::kNone;
  }
}

Value CallMethod(Runtime& runtime, const Method& method, CallArgs& args) {
  const Value& self = method.self;
  if (self.string()) return CallStringMethod(runtime, self, method.name, args);
  if (self.is(Kind::kDict)) return CallDictMethod(runtime, self, method.name, args);
  return CallSequenceMethod(runtime, self, method.name, args);
}

}  // namespace finetuned::text::jinja
