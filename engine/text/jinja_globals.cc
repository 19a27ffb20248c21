#include <algorithm>
#include <ctime>

#include "engine/text/jinja_builtins.h"

// Functions every template can call.
namespace finetuned::text::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // the limit of jinja2's sandbox
constexpr size_t kMaxTimeFormat = 1000;

Value RaiseException(Runtime& runtime, CallArgs& args) {
  const auto bound = runtime.Bind("raise_exception", args, {"message"}, 1);
  if (!runtime.ok()) return Value();
  return runtime.Fail(runtime.ToStr(bound[0]).bytes);
}

// Entries of dict(mapping or pairs, **named).
bool Fill(Runtime& runtime, CallArgs& args, Dict* dict) {
  if (args.positional.size() > 1) {
    runtime.Fail("expected at most one positional argument");
    return false;
  }
  if (args.positional.size() == 1) {
    const Value& source = args.positional[0];
    for (const Value& item : runtime.Items(source)) {
      if (source.is(Kind::kDict)) {
        if (!runtime.SetItem(dict, item, *source.dict().Find(item))) return false;
        continue;
      }
      const std::vector<Value> pair = runtime.Items(item);
      if (pair.size() != 2) {
        runtime.Fail("expected a mapping or pairs of key and value");
        return false;
      }
      if (!runtime.SetItem(dict, pair[0], pair[1])) return false;
    }
  }
  for (auto& [name, value] : args.named) {
    if (!runtime.SetItem(dict, Value(Plain(name)), std::move(value))) return false;
  }
  return runtime.ok();
}

Value MakeNamespace(Runtime& runtime, CallArgs& args) {
  Value ns = runtime.NewNamespace();
  if (!runtime.ok() || !Fill(runtime, args, &ns.ns().attributes)) return Value();
  for (const auto& [name, value] : ns.ns().attributes.entries) {
    if (name.string() && !name.bytes().empty() && name.bytes()[0] == '_') {
      return runtime.Fail(
          Cat("a namespace cannot hold '", name.bytes(), "': its name starts with an underscore"));
    }
  }
  return ns;
}

Value MakeDict(Runtime& runtime, CallArgs& args) {
  auto dict = std::make_shared<Dict>();
  return Fill(runtime, args, dict.get()) ? runtime.FinishDict(std::move(dict)) : Value();
}

Value Range(Runtime& runtime, CallArgs& args) {
  const size_t given = args.positional.size();
  const auto bound = runtime.Bind("range", args, {"start", "stop", "step"}, 1);
  auto seq = std::make_shared<Sequence>();
  seq->kind = SeqKind::kRange;
  seq->start = given == 1 ? 0 : runtime.IntArg(bound[0], 0);
  seq->stop = runtime.IntArg(bound[given == 1 ? 0 : 1], 0);
  seq->step = runtime.IntArg(bound[2], 1);
  if (!runtime.ok()) return Value();
  if (seq->step == 0) return runtime.Fail("range() arg 3 must not be zero");
  for (int64_t i = seq->start; seq->step > 0 ? i < seq->stop : i > seq->stop;) {
    seq->items.emplace_back(i);
    if (static_cast<int64_t>(seq->items.size()) > kMaxRange) {
      return runtime.Fail(Cat("a range may hold at most ", kMaxRange, " items"));
    }
    if (__builtin_add_overflow(i, seq->step, &i)) break;
  }
  seq->weight = 1 + static_cast<int64_t>(seq->items.size());
  return runtime.Charge(seq->weight) ? Value(std::move(seq)) : Value();
}

// What Python fills in itself for a time without a zone.
std::string PythonTimeFormat(const std::string& format) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      out += format[i];
      continue;
    }
    ++i;
    if (format[i] == 'f') {
      out += "000000";
    } else if (format[i] != 'z' && format[i] != 'Z') {
      out += {'%', format[i]};
    }
  }
  return out;
}

Value StrftimeNow(Runtime& runtime, CallArgs& args) {
  const auto bound = runtime.Bind("strftime_now", args, {"format"}, 1);
  if (!runtime.ok()) return Value();
  if (!bound[0].string()) return runtime.FailType("strftime_now needs a string", bound[0]);
  if (bound[0].bytes().size() > kMaxTimeFormat ||
      bound[0].bytes().find('\0') != std::string::npos) {
    return runtime.Fail("strftime_now: this format is too long or holds a zero byte");
  }
  const std::string format = PythonTimeFormat(bound[0].bytes());
  const auto now = static_cast<std::time_t>(runtime.now_unix_seconds());
  std::tm utc{};
  if (gmtime_r(&now, &utc) == nullptr) return runtime.Fail("strftime_now: time out of range");
  std::string out(kMaxTimeFormat * 64 + 1, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &utc));
  return runtime.String(Tainted(std::move(out), bound[0].str()));
}

constexpr Function kGlobals[] = {
    {"raise_exception", RaiseException},
    {"namespace", MakeNamespace},
    {"dict", MakeDict},
    {"range", Range},
    {"strftime_now", StrftimeNow},
};

}  // namespace

const Function* FindGlobal(std::string_view name) {
  const auto* found = std::find_if(std::begin(kGlobals), std::end(kGlobals),
                                   [name](const Function& f) { return name == f.name; });
  return found == std::end(kGlobals) ? nullptr : found;
}

}  // namespace finetuned::text::jinja
