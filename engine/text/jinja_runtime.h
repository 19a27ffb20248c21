#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/chat_template.h"
#include "engine/text/jinja_ast.h"
#include "engine/text/jinja_value.h"

namespace finetuned::text::jinja {

// Nested evaluations (expressions, statements, macros) that surely fit the stack of a thread.
inline constexpr int kMaxStack = 1500;

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What Python does for jinja2: attributes, items, operators, strings of values. The first error
// sticks: after it ok() is false, every method returns at once, and results mean nothing.
class Runtime {
 public:
  Runtime(const RenderLimits& limits, int64_t now_unix_seconds)
      : limits_(limits), now_unix_seconds_(now_unix_seconds) {}
  virtual ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Errors and limits.
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  Value Fail(std::string_view message);     // INVALID_ARGUMENT with the current line
  Value Exhaust(std::string_view message);  // RESOURCE_EXHAUSTED
  Value FailUndefined(const Value& undefined);
  Value FailType(std::string_view what, const Value& value);  // "WHAT: 'list' ..."
  bool Charge(int64_t steps);                                 // false once max_steps are used up
  bool FitsOutput(size_t bytes);
  // Guards the machine stack: true while fewer than kMaxStack evaluations are nested.
  bool Enter();
  void Leave() { --nesting_; }
  int64_t now_unix_seconds() const { return now_unix_seconds_; }
  int max_depth() const { return limits_.max_depth; }

  // New values; limits on size and nesting are checked.
  Value String(Str text);
  Value String(std::string_view text) { return String(Plain(text)); }
  Value List(std::vector<Value> items) { return Seq(SeqKind::kList, std::move(items)); }
  Value Tuple(std::vector<Value> items) { return Seq(SeqKind::kTuple, std::move(items)); }
  Value Iterator(std::vector<Value> items) { return Seq(SeqKind::kIterator, std::move(items)); }
  Value Seq(SeqKind kind, std::vector<Value> items);
  Value FinishDict(std::shared_ptr<Dict> dict);
  Value NewNamespace();
  static Value MakeUndefined(std::string hint);

  // object.name and object[key]; undefined when absent, as the sandbox of the reference.
  Value GetAttr(const Value& object, const std::string& name);
  Value GetItem(const Value& object, const Value& key);
  Value GetSlice(const Value& object, const Value* start, const Value* stop, const Value* step);
  bool SetItem(Dict* dict, const Value& key, Value value);  // fails for unhashable keys

  // All items, as list(value).
  std::vector<Value> Items(const Value& value);
  // len(value); -1 after an error.
  int64_t Length(const Value& value);
  Value Call(const Value& callee, CallArgs& args);
  virtual Value CallMacro(const Macro& macro, CallArgs& args) = 0;

  // Operators (jinja_operators.cc).
  Value Binary(ExprKind op, const Value& a, const Value& b);
  Value Unary(ExprKind op, const Value& a);
  bool Compare(CompareOp op, const Value& a, const Value& b);
  bool Equals(const Value& a, const Value& b);
  bool LessThan(const Value& a, const Value& b);
  bool Contains(const Value& container, const Value& item);
  // Stable sort by <; keys[i] is the key of items[i].
  std::vector<Value> Sorted(std::vector<Value> items, std::vector<Value> keys, bool reverse);

  // Strings of values (jinja_format.cc).
  Str ToStr(const Value& value);  // str(value)
  void AppendStr(const Value& value, StrBuilder* out);
  void AppendRepr(const Value& value, StrBuilder* out, int depth = 0);

  // Positional and keyword arguments of `function` by parameter name; a missing() value stands for
  // one that was not given. Fails when too many, unknown or fewer than `required` are given.
  std::vector<Value> Bind(std::string_view function, CallArgs& args,
                          std::initializer_list<std::string_view> names, size_t required = 0);
  // Conversions of bound arguments; missing gives the default.
  bool BoolArg(const Value& value, bool otherwise) const {
    return value.missing() ? otherwise : Truthy(value);
  }
  int64_t IntArg(const Value& value, int64_t otherwise);
  // Next item of a running loop without visiting it; false at the end.
  bool Peek(Loop* loop, Value* item);

 protected:
  int line_ = 0;  // of the statement or expression being evaluated

 private:
  Value LoopAttr(Loop* loop, const std::string& name);
  Value IndexSequence(const Value& object, int64_t index);

  const RenderLimits limits_;
  const int64_t now_unix_seconds_;
  absl::Status status_;
  int64_t steps_ = 0;
  int nesting_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // emptied at the end: they may form cycles
};

}  // namespace finetuned::text::jinja
