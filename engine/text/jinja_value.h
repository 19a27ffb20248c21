#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "engine/text/jinja_text.h"

namespace finetuned::text::jinja {

inline constexpr int64_t kBytesPerStep = 64;  // of a string that is copied or compared, in RenderLimits::max_steps

class Runtime;
struct Activation;
struct CallArgs;
struct Dict;
struct Loop;
struct MacroNode;
struct Macro;
struct Method;
struct Namespace;
struct Sequence;
class Value;

// What may be called by a template; `name` is for messages.
struct Function {
  const char* name;
  Value (*call)(Runtime& runtime, CallArgs& args);
};

struct None {};

// jinja2's default Undefined: prints as nothing, iterates as empty, fails on most other uses.
// A null hint stands for a variable that was never assigned.
struct Undefined {
  std::shared_ptr<const std::string> hint;
};

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSequence,
  kDict,
  kNamespace,
  kMacro,
  kMethod,
  kFunction,
  kLoop,
};

// A value of the template language: what the Python value would be. Cheap to copy; everything but
// namespaces, loops and the cursor of iterators is immutable, as in the sandbox of the reference.
class Value {
 public:
  Value() = default;  // undefined without a hint
  Value(None) : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(int value) : data_(int64_t{value}) {}
  Value(double value) : data_(value) {}
  Value(Str text) : data_(std::make_shared<const Str>(std::move(text))) {}
  Value(Undefined undefined) : data_(std::move(undefined)) {}
  Value(std::shared_ptr<const Str> text) : data_(std::move(text)) {}
  Value(std::shared_ptr<Sequence> sequence) : data_(std::move(sequence)) {}
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  Value(std::shared_ptr<Namespace> ns) : data_(std::move(ns)) {}
  Value(std::shared_ptr<const Macro> macro) : data_(std::move(macro)) {}
  Value(std::shared_ptr<const Method> method) : data_(std::move(method)) {}
  Value(const Function* function) : data_(function) {}
  Value(std::shared_ptr<Loop> loop) : data_(std::move(loop)) {}
  Value(const char*) = delete;

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is(Kind kind) const { return this->kind() == kind; }
  bool undefined() const { return is(Kind::kUndefined); }
  bool missing() const { return undefined() && !std::get<Undefined>(data_).hint; }
  bool none() const { return is(Kind::kNone); }
  bool string() const { return is(Kind::kString); }
  bool integral() const { return is(Kind::kInt) || is(Kind::kBool); }
  bool number() const { return integral() || is(Kind::kFloat); }

  // REQUIRES: the kind fits.
  const Undefined& as_undefined() const { return std::get<Undefined>(data_); }
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const {  // of kInt and kBool
    return is(Kind::kBool) ? int64_t{as_bool()} : std::get<int64_t>(data_);
  }
  double as_double() const {  // of every number
    return is(Kind::kFloat) ? std::get<double>(data_) : static_cast<double>(as_int());
  }
  const Str& str() const { return *std::get<std::shared_ptr<const Str>>(data_); }
  const std::string& bytes() const { return str().bytes; }
  const std::shared_ptr<Sequence>& seq() const {
    return std::get<std::shared_ptr<Sequence>>(data_);
  }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Namespace& ns() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  const Macro& macro() const { return *std::get<std::shared_ptr<const Macro>>(data_); }
  const Method& method() const { return *std::get<std::shared_ptr<const Method>>(data_); }
  const Function& function() const { return *std::get<const Function*>(data_); }
  Loop& loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Str>,
               std::shared_ptr<Sequence>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Macro>, std::shared_ptr<const Method>, const Function*,
               std::shared_ptr<Loop>>
      data_;
};

enum class SeqKind : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems, kIterator };

struct Sequence {
  SeqKind kind = SeqKind::kList;
  std::vector<Value> items;
  size_t next = 0;                        // kIterator: the items before it were consumed
  int64_t start = 0, stop = 0, step = 1;  // kRange: for its printed form
  int depth = 1;
  int64_t weight = 1;

  bool indexable() const { return kind <= SeqKind::kRange; }
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;
  int64_t weight = 1;

  // Null when absent. The key must be hashable.
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  // Inserts or replaces, as dict.__setitem__. Only while the dict is being built.
  void Set(const Value& key, Value value);

 private:
  static constexpr size_t kLinear = 8;  // more entries than this are found through index_
  std::unordered_multimap<size_t, size_t> index_;  // hash to place
};

struct Namespace {
  Dict attributes;
};

struct Macro {
  const MacroNode* node = nullptr;
  std::shared_ptr<Activation> closure;
};

// A method bound to the value it was taken from, for example "a b".split.
struct Method {
  Value self;
  std::string name;
};

// State of a running for loop, which is also the variable `loop`.
struct Loop {
  std::function<bool(Value*)> pull;  // the next item that passes the filter of the loop
  std::vector<Value> ahead;          // pulled but not yet visited, in reverse order
  Value before, current;
  int64_t index0 = -1;
  int64_t length = -1;  // -1 until known
  int64_t depth0 = 0;
};

const char* TypeName(const Value& value);  // as Python's type(x).__name__
bool Truthy(const Value& value);
bool Hashable(const Value& value);
size_t Hash(const Value& value);  // REQUIRES: Hashable
// These two visit at most min(Weight(a), Weight(b)) values.
bool Equal(const Value& a, const Value& b);
// Orders a and b as Python's <; false and a message in *error when the types have no order.
bool Less(const Value& a, const Value& b, std::string* error);

int Depth(const Value& value);       // nesting of containers, 0 for scalars
int64_t Weight(const Value& value);  // what a full walk costs in steps; saturates

std::shared_ptr<Sequence> MakeSequence(SeqKind kind, std::vector<Value> items);

}  // namespace finetuned::text::jinja
