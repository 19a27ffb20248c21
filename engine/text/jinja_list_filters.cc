#include <algorithm>

#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_string_ops.h"

// Filters that work on lists, dicts and other iterables.
namespace finetuned::text::jinja {
namespace {

std::vector<std::string_view> SplitAtChar(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// Sort key: strings compare without case unless asked otherwise.
Value Folded(Runtime& runtime, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.string()) return value;
  return runtime.String(MapCase(value.str(), CaseMap::kLower));
}

Value KeyOf(Runtime& runtime, const Value& item, const Value& attribute, bool case_sensitive) {
  const bool whole = attribute.missing() || attribute.none();
  return Folded(runtime, whole ? item : AttributeOf(runtime, item, attribute), case_sensitive);
}

Value Length(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("length", args, {});
  return Value(runtime.Length(subject));
}

Value First(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("first", args, {});
  if (subject.is(Kind::kSequence) && subject.seq()->kind == SeqKind::kIterator) {
    Sequence& seq = *subject.seq();
    if (seq.next < seq.items.size()) return seq.items[seq.next++];
  } else if (subject.string() && !subject.bytes().empty()) {
    return runtime.GetItem(subject, Value(0));
  } else {
    const std::vector<Value> items = runtime.Items(subject);
    if (!items.empty()) return items.front();
  }
  return Runtime::MakeUndefined("No first item, sequence was empty.");
}

Value Last(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("last", args, {});
  if (subject.is(Kind::kSequence) && subject.seq()->kind == SeqKind::kIterator) {
    return runtime.Fail("'generator' object is not reversible");
  }
  if (subject.string() && !subject.bytes().empty()) return runtime.GetItem(subject, Value(-1));
  const std::vector<Value> items = runtime.Items(subject);
  if (!items.empty()) return items.back();
  return Runtime::MakeUndefined("No last item, sequence was empty.");
}

Value ToList(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("list", args, {});
  return runtime.List(runtime.Items(subject));
}

std::vector<Value> Entries(Runtime& runtime, const Value& subject) {
  std::vector<Value> out;
  for (const auto& [key, value] : subject.dict().entries) {
    out.push_back(runtime.Tuple({key, value}));
  }
  return out;
}

Value ItemsFilter(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("items", args, {});
  if (subject.undefined()) return runtime.Iterator({});
  if (!subject.is(Kind::kDict)) return runtime.FailType("items needs a mapping", subject);
  return runtime.Iterator(Entries(runtime, subject));
}

Value DictSort(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("dictsort", args, {"case_sensitive", "by", "reverse"});
  if (!subject.is(Kind::kDict)) return runtime.FailType("dictsort needs a mapping", subject);
  const std::string by = bound[1].missing() ? "key" : runtime.ToStr(bound[1]).bytes;
  if (by != "key" && by != "value") return runtime.Fail("dictsort: by must be key or value");
  std::vector<Value> keys;
  for (const auto& [key, value] : subject.dict().entries) {
    keys.push_back(Folded(runtime, by == "key" ? key : value, runtime.BoolArg(bound[0], false)));
  }
  return runtime.List(
      runtime.Sorted(Entries(runtime, subject), std::move(keys), runtime.BoolArg(bound[2], false)));
}

Value Sort(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("sort", args, {"reverse", "case_sensitive", "attribute"});
  const std::vector<Value> items = runtime.Items(subject);
  std::vector<Value> parts{bound[2]};
  if (bound[2].string()) {
    parts.clear();
    for (const std::string_view part : SplitAtChar(bound[2].bytes(), ',')) {
      parts.push_back(Value(Plain(part)));
    }
  }
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const Value& part : parts) {
      key.push_back(KeyOf(runtime, item, part, runtime.BoolArg(bound[1], false)));
    }
    keys.push_back(runtime.List(std::move(key)));
  }
  if (!runtime.ok()) return Value();
  return runtime.List(runtime.Sorted(items, std::move(keys), runtime.BoolArg(bound[0], false)));
}

Value Unique(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("unique", args, {"case_sensitive", "attribute"});
  std::vector<Value> out;
  Dict seen;
  for (const Value& item : runtime.Items(subject)) {
    const Value key = KeyOf(runtime, item, bound[1], runtime.BoolArg(bound[0], false));
    const size_t before = seen.entries.size();
    if (!runtime.ok() || !runtime.SetItem(&seen, key, Value(true))) return Value();
    if (seen.entries.size() > before) out.push_back(item);
  }
  return runtime.Iterator(std::move(out));
}

Value Reverse(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("reverse", args, {});
  if (subject.string()) {
    const Value step(-1);
    return runtime.GetSlice(subject, nullptr, nullptr, &step);
  }
  std::vector<Value> items = runtime.Items(subject);
  std::reverse(items.begin(), items.end());
  return runtime.Iterator(std::move(items));
}

template <bool kMax>
Value Extreme(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("min and max", args, {"case_sensitive", "attribute"});
  const std::vector<Value> items = runtime.Items(subject);
  if (items.empty()) return Runtime::MakeUndefined("No aggregated item, sequence was empty.");
  const bool case_sensitive = runtime.BoolArg(bound[0], false);
  Value best = items[0];
  Value best_key = KeyOf(runtime, best, bound[1], case_sensitive);
  for (size_t i = 1; i < items.size() && runtime.ok(); ++i) {
    const Value key = KeyOf(runtime, items[i], bound[1], case_sensitive);
    const bool better = kMax ? runtime.LessThan(best_key, key) : runtime.LessThan(key, best_key);
    if (!better) continue;
    best = items[i];
    best_key = key;
  }
  return best;
}

Value Sum(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("sum", args, {"attribute", "start"});
  const bool whole = bound[0].missing() || bound[0].none();
  Value total = bound[1].missing() ? Value(0) : bound[1];
  if (total.string()) return runtime.Fail("sum cannot add strings; use join");
  for (const Value& item : runtime.Items(subject)) {
    total =
        runtime.Binary(ExprKind::kAdd, total, whole ? item : AttributeOf(runtime, item, bound[0]));
    if (!runtime.ok()) return Value();
  }
  return total;
}

Value Join(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("join", args, {"d", "attribute"});
  std::vector<Value> items = runtime.Items(subject);
  if (!bound[1].missing() && !bound[1].none()) {
    for (Value& item : items) item = AttributeOf(runtime, item, bound[1]);
  }
  const Str separator = bound[0].missing() ? Str() : runtime.ToStr(bound[0]);
  return JoinStrings(runtime, separator, items);
}

Value Default(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("default", args, {"default_value", "boolean"});
  if (subject.undefined() || (runtime.BoolArg(bound[1], false) && !Truthy(subject))) {
    return bound[0].missing() ? runtime.String(Str()) : bound[0];
  }
  return subject;
}

// Takes a named argument out of args; missing() when it is not there.
Value TakeNamed(CallArgs& args, std::string_view name) {
  for (auto it = args.named.begin(); it != args.named.end(); ++it) {
    if (it->first != name) continue;
    Value value = std::move(it->second);
    args.named.erase(it);
    return value;
  }
  return Value();
}

// Takes the first positional argument, which must be a string, as name of what to apply.
std::string TakeName(Runtime& runtime, CallArgs& args, std::string_view what) {
  if (args.positional.empty() || !args.positional[0].string()) {
    runtime.Fail(Cat("expected the name of a ", what));
    return {};
  }
  std::string name = args.positional[0].bytes();
  args.positional.erase(args.positional.begin());
  return name;
}

Value Map(Runtime& runtime, const Value& subject, CallArgs& args) {
  std::vector<Value> out;
  const FilterDef* filter = nullptr;
  Value attribute, otherwise;
  if (args.positional.empty()) {
    attribute = TakeNamed(args, "attribute");
    otherwise = TakeNamed(args, "default");
    if (attribute.missing() || !args.named.empty()) {
      return runtime.Fail("map needs the name of a filter or attribute=");
    }
  } else {
    const std::string name = TakeName(runtime, args, "filter");
    filter = FindFilter(name);
    if (!filter) return runtime.Fail(Cat("there is no filter named '", name, "'"));
  }
  if (!Truthy(subject)) return runtime.Iterator({});
  runtime.Enter();
  for (const Value& item : runtime.Items(subject)) {
    if (!runtime.Charge(1 + static_cast<int64_t>(args.positional.size()))) break;
    if (filter) {
      CallArgs copy = args;
      out.push_back(filter->call(runtime, item, copy));
    } else {
      Value found = AttributeOf(runtime, item, attribute);
      const bool replace = found.undefined() && !otherwise.missing() && !otherwise.none();
      out.push_back(replace ? otherwise : std::move(found));
    }
  }
  runtime.Leave();
  return runtime.Iterator(std::move(out));
}

// select, reject, selectattr and rejectattr.
template <bool kKeep, bool kAttribute>
Value Select(Runtime& runtime, const Value& subject, CallArgs& args) {
  Value attribute;
  if (kAttribute) {
    if (args.positional.empty()) return runtime.Fail("expected the name of an attribute");
    attribute = args.positional[0];
    args.positional.erase(args.positional.begin());
  }
  const TestDef* test = nullptr;
  if (!args.positional.empty()) {
    const std::string name = TakeName(runtime, args, "test");
    test = FindTest(name);
    if (!test) return runtime.Fail(Cat("there is no test named '", name, "'"));
  }
  std::vector<Value> out;
  if (!Truthy(subject)) return runtime.Iterator({});
  for (const Value& item : runtime.Items(subject)) {
    const Value tested = kAttribute ? AttributeOf(runtime, item, attribute) : item;
    if (!runtime.Charge(1 + static_cast<int64_t>(args.positional.size()))) return Value();
    CallArgs copy = args;
    const bool passes = test ? test->call(runtime, tested, copy) : Truthy(tested);
    if (passes == kKeep) out.push_back(item);
  }
  return runtime.Iterator(std::move(out));
}

constexpr FilterDef kListFilters[] = {
    {"length", Length},
    {"count", Length},
    {"first", First},
    {"last", Last},
    {"list", ToList},
    {"items", ItemsFilter},
    {"dictsort", DictSort},
    {"sort", Sort},
    {"unique", Unique},
    {"reverse", Reverse},
    {"min", Extreme<false>},
    {"max", Extreme<true>},
    {"sum", Sum},
    {"join", Join},
    {"default", Default},
    {"d", Default},
    {"map", Map},
    {"select", Select<true, false>},
    {"reject", Select<false, false>},
    {"selectattr", Select<true, true>},
    {"rejectattr", Select<false, true>},
};

}  // namespace

FilterList ListFilters() { return {kListFilters, std::size(kListFilters)}; }

const FilterDef* FindFilter(std::string_view name) {
  for (const FilterList list : {StringFilters(), ListFilters()}) {
    const FilterDef* end = list.begin + list.size;
    const FilterDef* found = std::find_if(
        list.begin, end, [name](const FilterDef& filter) { return filter.name == name; });
    if (found != end) return found;
  }
  return nullptr;
}

Value AttributeOf(Runtime& runtime, const Value& item, const Value& attribute) {
  if (!attribute.string()) return runtime.GetItem(item, attribute);
  Value found = item;
  for (const std::string_view part : SplitAtChar(attribute.bytes(), '.')) {
    const bool digits = part.find_first_not_of("0123456789") == part.npos;
    const auto index = digits ? ParseInteger(part) : std::nullopt;
    found = runtime.GetItem(found, index ? Value(*index) : Value(Plain(part)));
  }
  return found;
}

}  // namespace finetuned::text::jinja
