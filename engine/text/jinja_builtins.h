#pragma once

#include <string>
#include <string_view>

#include "engine/text/jinja_runtime.h"

namespace finetuned::text::jinja {

struct FilterDef {
  std::string_view name;
  Value (*call)(Runtime& runtime, const Value& subject, CallArgs& args);
};

struct TestDef {
  std::string_view name;
  bool (*call)(Runtime& runtime, const Value& subject, CallArgs& args);
};

// Null when the name is unknown.
const FilterDef* FindFilter(std::string_view name);
const TestDef* FindTest(std::string_view name);
// raise_exception, namespace, range, dict, strftime_now.
const Function* FindGlobal(std::string_view name);

// What a Python object answers for an attribute of this name.
enum class MethodState { kNone, kCallable, kUnsafe, kUnsupported };
MethodState FindMethod(const Value& object, std::string_view name);
Value CallMethod(Runtime& runtime, const Method& method, CallArgs& args);
// The methods of strings.
Value CallStringMethod(Runtime& runtime, const Value& self, std::string_view name, CallArgs& args);

// The filters of one file.
struct FilterList {
  const FilterDef* begin;
  size_t size;
};
FilterList StringFilters();
FilterList ListFilters();

// item.a.b.0 for "a.b.0", or item[attribute] for an integer.
Value AttributeOf(Runtime& runtime, const Value& item, const Value& attribute);

}  // namespace finetuned::text::jinja
