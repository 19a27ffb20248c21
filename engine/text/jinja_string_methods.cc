#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_format.h"
#include "engine/text/jinja_string_ops.h"

// Methods of strings, and the string operations that filters share with them.
namespace finetuned::text::jinja {
namespace {

using Args = std::vector<Value>;

size_t Find(const std::string& text, const std::string& wanted, size_t from) {
  if (from > text.size()) return std::string::npos;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  if (found == nullptr) return std::string::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

std::vector<ByteRange> SplitAtSpace(const std::string& text, int64_t most) {
  std::vector<ByteRange> out;
  size_t at = TrimSpace(text, true, false).begin;
  while (at < text.size()) {
    if (most >= 0 && static_cast<int64_t>(out.size()) == most) {
      out.push_back({at, text.size()});
      break;
    }
    const size_t begin = at;
    while (at < text.size() && !IsSpace(DecodeAt(text, at))) at += CodePointBytes(text, at);
    out.push_back({begin, at});
    at += TrimSpace(std::string_view(text).substr(at), true, false).begin;
  }
  return out;
}

std::vector<ByteRange> SplitAt(const std::string& text, const std::string& separator,
                               int64_t most) {
  std::vector<ByteRange> out;
  size_t begin = 0;
  while (most < 0 || static_cast<int64_t>(out.size()) < most) {
    const size_t found = Find(text, separator, begin);
    if (found == std::string::npos) break;
    out.push_back({begin, found});
    begin = found + separator.size();
  }
  out.push_back({begin, text.size()});
  return out;
}

std::vector<ByteRange> SplitAtFromRight(const std::string& text, const std::string& separator,
                                        int64_t most) {
  std::vector<ByteRange> out;
  size_t end = text.size();
  while ((most < 0 || static_cast<int64_t>(out.size()) < most) && end >= separator.size()) {
    const size_t found = text.rfind(separator, end - separator.size());
    if (found == std::string::npos) break;
    out.push_back({found + separator.size(), end});
    end = found;
  }
  out.push_back({0, end});
  std::reverse(out.begin(), out.end());
  return out;
}

Value Slices(Runtime& runtime, const Str& text, const std::vector<ByteRange>& ranges) {
  std::vector<Value> out;
  for (const ByteRange& range : ranges) {
    out.push_back(runtime.String(Slice(text, range.begin, range.end)));
  }
  return runtime.List(std::move(out));
}

Value Split(Runtime& runtime, const Str& text, bool from_right, const Args& args) {
  const int64_t most = runtime.IntArg(args[1], -1);
  if (args[0].missing() || args[0].none()) {
    if (from_right && most >= 0) return runtime.Fail("rsplit needs a separator here");
    return Slices(runtime, text, SplitAtSpace(text.bytes, most));
  }
  if (!args[0].string()) return runtime.FailType("the separator must be a string", args[0]);
  const std::string& separator = args[0].bytes();
  if (separator.empty()) return runtime.Fail("empty separator");
  return Slices(runtime, text,
                from_right ? SplitAtFromRight(text.bytes, separator, most)
                           : SplitAt(text.bytes, separator, most));
}

Value SplitLines(Runtime& runtime, const Str& text, bool keep_ends) {
  std::vector<ByteRange> lines;
  for (const Line& line : Lines(text.bytes)) {
    lines.push_back({line.begin, keep_ends ? line.next : line.end});
  }
  return Slices(runtime, text, lines);
}

Value Affix(Runtime& runtime, const Str& text, bool start, const Value& affix) {
  const auto matches = [&](const Value& candidate) {
    if (!candidate.string()) {
      runtime.FailType("startswith and endswith need a string or a tuple of strings", candidate);
      return false;
    }
    const std::string& part = candidate.bytes();
    if (part.size() > text.bytes.size()) return false;
    return text.bytes.compare(start ? 0 : text.bytes.size() - part.size(), part.size(), part) == 0;
  };
  if (!affix.is(Kind::kSequence) || affix.seq()->kind != SeqKind::kTuple) {
    return Value(matches(affix));
  }
  const auto& items = affix.seq()->items;
  return Value(std::any_of(items.begin(), items.end(), matches));
}

Value FindIndex(Runtime& runtime, const Str& text, std::string_view name, const Value& wanted) {
  if (!wanted.string()) return runtime.FailType("expected a string to look for", wanted);
  const size_t at =
      name[0] == 'r' ? text.bytes.rfind(wanted.bytes()) : Find(text.bytes, wanted.bytes(), 0);
  if (at != std::string::npos) return Value(CountCodePoints(text.bytes.substr(0, at)));
  const bool must = name == "index" || name == "rindex";
  return must ? runtime.Fail("substring not found") : Value(-1);
}

Value Count(Runtime& runtime, const Str& text, const Value& wanted) {
  if (!wanted.string()) return runtime.FailType("expected a string to look for", wanted);
  if (wanted.bytes().empty()) return Value(CountCodePoints(text.bytes) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = Find(text.bytes, wanted.bytes(), at)) != std::string::npos;) {
    ++count;
    at += wanted.bytes().size();
  }
  return Value(count);
}

Value JoinMethod(Runtime& runtime, const Str& separator, const Value& values) {
  const std::vector<Value> items = runtime.Items(values);
  for (const Value& item : items) {
    if (!item.string()) return runtime.FailType("str.join: expected only strings", item);
  }
  return JoinStrings(runtime, separator, items);
}

Value Partition(Runtime& runtime, const Str& text, bool from_right, const Value& separator) {
  if (!separator.string() || separator.bytes().empty()) {
    return runtime.FailType("partition needs a separator", separator);
  }
  const size_t size = text.bytes.size();
  const size_t at =
      from_right ? text.bytes.rfind(separator.bytes()) : Find(text.bytes, separator.bytes(), 0);
  const bool found = at != std::string::npos;
  const size_t first = found ? at : from_right ? 0 : size;
  const size_t second = found ? at + separator.bytes().size() : first;
  return runtime.Tuple({runtime.String(Slice(text, 0, first)),
                        runtime.String(Slice(text, first, second)),
                        runtime.String(Slice(text, second, size))});
}

Value Padded(Runtime& runtime, const Str& text, std::string_view name, const Args& args) {
  std::string fill = " ";
  if (!args[1].missing()) {
    if (!args[1].string() || CountCodePoints(args[1].bytes()) != 1) {
      return runtime.Fail("the fill character must be exactly one character long");
    }
    fill = args[1].bytes();
  }
  const int64_t width = runtime.IntArg(args[0], 0);
  const int64_t missing = std::max<int64_t>(width - CountCodePoints(text.bytes), 0);
  if (!runtime.FitsOutput(static_cast<size_t>(missing)) || !runtime.Charge(missing)) return {};
  int64_t left = 0;
  if (name == "center") left = missing / 2 + (missing & width & 1);
  if (name == "rjust" || name == "zfill") left = missing;
  StrBuilder out;
  size_t sign = 0;
  if (name == "zfill") {
    fill = "0";
    sign = !text.bytes.empty() && (text.bytes[0] == '-' || text.bytes[0] == '+') ? 1 : 0;
    out.AppendSlice(text, 0, sign);
  }
  for (int64_t i = 0; i < left; ++i) out.Append(fill);
  out.AppendSlice(text, sign, text.bytes.size());
  for (int64_t i = left; i < missing; ++i) out.Append(fill);
  return runtime.String(out.Take());
}

// isdigit and its like: every code point passes, and there is one.
bool AllOf(const std::string& text, bool (*passes)(char32_t)) {
  for (size_t at = 0; at < text.size(); at += CodePointBytes(text, at)) {
    if (!passes(DecodeAt(text, at))) return false;
  }
  return !text.empty();
}

bool IsAsciiDigit(char32_t code) { return code >= '0' && code <= '9'; }
bool IsAlnum(char32_t code) { return IsWord(code) && code != '_'; }
bool IsAlpha(char32_t code) { return IsAlnum(code) && !IsAsciiDigit(code); }

std::optional<bool> Classify(const Str& text, std::string_view name) {
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") {
    return AllOf(text.bytes, IsAsciiDigit);
  }
  if (name == "isalpha") return AllOf(text.bytes, IsAlpha);
  if (name == "isalnum") return AllOf(text.bytes, IsAlnum);
  if (name == "isspace") return AllOf(text.bytes, IsSpace);
  if (name == "isupper") return IsCase(text, CaseMap::kUpper);
  if (name == "islower") return IsCase(text, CaseMap::kLower);
  if (name == "isascii") {
    return CountCodePoints(text.bytes) == static_cast<int64_t>(text.bytes.size());
  }
  return std::nullopt;
}

std::optional<CaseMap> CaseOf(std::string_view name) {
  if (name == "upper") return CaseMap::kUpper;
  if (name == "lower" || name == "casefold") return CaseMap::kLower;
  if (name == "capitalize") return CaseMap::kCapitalize;
  if (name == "title") return CaseMap::kTitle;
  if (name == "swapcase") return CaseMap::kSwap;
  return std::nullopt;
}

}  // namespace

std::vector<Line> Lines(const std::string& text) {
  std::vector<Line> out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const char32_t code = DecodeAt(text, at);
    const size_t end = at;
    at += CodePointBytes(text, at);
    const bool breaks = (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) ||
                        code == 0x85 || code == 0x2028 || code == 0x2029;
    if (!breaks) continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back({begin, end, at});
    begin = at;
  }
  if (begin < text.size()) out.push_back({begin, text.size(), text.size()});
  return out;
}

bool IsCase(const Str& text, CaseMap map) {
  const CaseMap other = map == CaseMap::kUpper ? CaseMap::kLower : CaseMap::kUpper;
  return MapCase(text, map).bytes == text.bytes && MapCase(text, other).bytes != text.bytes;
}

Str Strip(const Str& text, const std::string* chars, bool left, bool right) {
  if (chars == nullptr) {
    const ByteRange range = TrimSpace(text.bytes, left, right);
    return Slice(text, range.begin, range.end);
  }
  std::vector<char32_t> set;
  for (size_t at = 0; at < chars->size(); at += CodePointBytes(*chars, at)) {
    set.push_back(DecodeAt(*chars, at));
  }
  std::sort(set.begin(), set.end());
  const auto strips = [&](size_t at) {
    return std::binary_search(set.begin(), set.end(), DecodeAt(text.bytes, at));
  };
  size_t begin = 0;
  size_t end = text.bytes.size();
  while (left && begin < end && strips(begin)) begin += CodePointBytes(text.bytes, begin);
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(text.bytes[last]) & 0xC0) == 0x80) --last;
    if (!strips(last)) break;
    end = last;
  }
  return Slice(text, begin, end);
}

Value ReplaceAll(Runtime& runtime, const Str& text, const Str& old, const Str& with, int64_t most) {
  StrBuilder out;
  size_t done = 0;
  int64_t count = 0;
  const auto replace = [&](size_t at) {
    out.AppendSlice(text, done, at);
    out.Append(with);
    done = at + old.bytes.size();
    ++count;
    return runtime.FitsOutput(out.size()) && runtime.Charge(1 + Weight(Value(with)));
  };
  if (old.bytes.empty()) {
    for (size_t at = 0; (most < 0 || count < most) && replace(at) && at < text.bytes.size();) {
      at += CodePointBytes(text.bytes, at);
    }
  } else {
    size_t at = 0;
    while ((most < 0 || count < most) &&
           (at = Find(text.bytes, old.bytes, done)) != std::string::npos && replace(at)) {
    }
  }
  out.AppendSlice(text, done, text.bytes.size());
  return runtime.String(out.Take());
}

Value JoinStrings(Runtime& runtime, const Str& separator, const std::vector<Value>& items) {
  StrBuilder out;
  for (size_t i = 0; i < items.size() && runtime.ok(); ++i) {
    if (i > 0) out.Append(separator);
    runtime.AppendStr(items[i], &out);
    runtime.Charge(1 + static_cast<int64_t>(separator.bytes.size()) / 16);
    runtime.FitsOutput(out.size());
  }
  return runtime.String(out.Take());
}

Value CallStringMethod(Runtime& runtime, const Value& self, std::string_view name, CallArgs& args) {
  const Str& text = self.str();
  if (!runtime.Charge(1 + static_cast<int64_t>(text.bytes.size() / 16))) return Value();
  if (name == "format") return BraceFormat(runtime, self, args);
  const std::string full = Cat("str.", name);
  const auto bind = [&](std::initializer_list<std::string_view> names, size_t required) {
    return runtime.Bind(full, args, names, required);
  };
  if (const auto map = CaseOf(name)) {
    bind({}, 0);
    return runtime.ok() ? runtime.String(MapCase(text, *map)) : Value();
  }
  if (const auto result = Classify(text, name)) {
    bind({}, 0);
    return Value(*result);
  }
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Args bound = bind({"chars"}, 0);
    const bool given = !bound[0].missing() && !bound[0].none();
    if (given && !bound[0].string()) return runtime.FailType("strip needs a string", bound[0]);
    return runtime.String(
        Strip(text, given ? &bound[0].bytes() : nullptr, name != "rstrip", name != "lstrip"));
  }
  if (name == "split" || name == "rsplit") {
    return Split(runtime, text, name == "rsplit", bind({"sep", "maxsplit"}, 0));
  }
  if (name == "splitlines") {
    return SplitLines(runtime, text, runtime.BoolArg(bind({"keepends"}, 0)[0], false));
  }
  if (name == "startswith" || name == "endswith") {
    return Affix(runtime, text, name == "startswith", bind({"prefix"}, 1)[0]);
  }
  if (name == "replace") {
    const Args bound = bind({"old", "new", "count"}, 2);
    if (!runtime.ok()) return Value();
    if (!bound[0].string() || !bound[1].string()) {
      return runtime.FailType("replace needs strings", bound[bound[0].string() ? 1 : 0]);
    }
    return ReplaceAll(runtime, text, bound[0].str(), bound[1].str(), runtime.IntArg(bound[2], -1));
  }
  if (name == "join") return JoinMethod(runtime, text, bind({"iterable"}, 1)[0]);
  if (name == "count") return Count(runtime, text, bind({"sub"}, 1)[0]);
  if (name == "partition" || name == "rpartition") {
    return Partition(runtime, text, name == "rpartition", bind({"sep"}, 1)[0]);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const Value affix = bind({"affix"}, 1)[0];
    const bool prefix = name == "removeprefix";
    if (!Truthy(Affix(runtime, text, prefix, affix)) || !affix.string()) return self;
    const size_t size = affix.bytes().size();
    return runtime.String(prefix ? Slice(text, size, text.bytes.size())
                                 : Slice(text, 0, text.bytes.size() - size));
  }
  if (name == "center" || name == "ljust" || name == "rjust" || name == "zfill") {
    return Padded(runtime, text, name, bind({"width", "fillchar"}, 1));
  }
  return FindIndex(runtime, text, name, bind({"sub"}, 1)[0]);
}

}  // namespace finetuned::text::jinja
