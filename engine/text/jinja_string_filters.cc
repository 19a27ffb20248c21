#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/ascii.h"
#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_format.h"
#include "engine/text/jinja_json.h"
#include "engine/text/jinja_string_ops.h"

// Filters that work on one string or number.
namespace finetuned::text::jinja {
namespace {

template <CaseMap kCase>
Value Case(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("this filter", args, {});
  const Str text = runtime.ToStr(subject);
  return runtime.ok() ? runtime.String(MapCase(text, kCase)) : Value();
}

// Words start after white space, a hyphen or an opening bracket.
Value Title(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("title", args, {});
  const Str text = runtime.ToStr(subject);
  StrBuilder out;
  bool start = true;
  for (size_t at = 0; at < text.bytes.size() && runtime.ok();) {
    const size_t bytes = CodePointBytes(text.bytes, at);
    out.Append(MapCase(Slice(text, at, at + bytes), start ? CaseMap::kUpper : CaseMap::kLower));
    const char32_t code = DecodeAt(text.bytes, at);
    start =
        IsSpace(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
    at += bytes;
  }
  return runtime.String(out.Take());
}

Value Trim(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("trim", args, {"chars"});
  const Str text = runtime.ToStr(subject);
  const bool given = !bound[0].missing() && !bound[0].none();
  if (given && !bound[0].string()) return runtime.FailType("trim needs a string", bound[0]);
  if (!runtime.ok()) return Value();
  return runtime.String(Strip(text, given ? &bound[0].bytes() : nullptr, true, true));
}

Value ToString(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("string", args, {});
  return runtime.String(runtime.ToStr(subject));
}

Value Safe(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("safe", args, {});
  Str text = runtime.ToStr(subject);
  text.markup = true;
  return runtime.String(std::move(text));
}

Value Escape(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("escape", args, {});
  return runtime.String(EscapeHtml(runtime.ToStr(subject)));
}

Value ForceEscape(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("forceescape", args, {});
  Str text = runtime.ToStr(subject);
  text.markup = false;
  return runtime.String(EscapeHtml(text));
}

Value Replace(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("replace", args, {"old", "new", "count"}, 2);
  if (!runtime.ok()) return Value();
  const int64_t most = bound[2].none() ? -1 : runtime.IntArg(bound[2], -1);
  return ReplaceAll(runtime, runtime.ToStr(subject), runtime.ToStr(bound[0]),
                    runtime.ToStr(bound[1]), most);
}

Value Indent(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("indent", args, {"width", "first", "blank"});
  if (!subject.string()) return runtime.FailType("indent needs a string", subject);
  Str indention;
  if (bound[0].string()) {
    indention = bound[0].str();
  } else {
    const int64_t width = std::max<int64_t>(runtime.IntArg(bound[0], 4), 0);
    if (!runtime.FitsOutput(static_cast<size_t>(width)) || !runtime.Charge(width)) return Value();
    indention = Plain(std::string(static_cast<size_t>(width), ' '));
  }
  const bool blank = runtime.BoolArg(bound[2], false);
  StrBuilder text;
  text.Append(subject.str());
  text.Append("\n");
  const Str source = text.Take();
  StrBuilder out;
  bool first = true;
  for (const Line& line : Lines(source.bytes)) {
    if (!first) out.Append("\n");
    const bool indented = first ? runtime.BoolArg(bound[1], false) : blank || line.begin < line.end;
    if (indented) out.Append(indention);
    out.AppendSlice(source, line.begin, line.end);
    first = false;
    if (!runtime.FitsOutput(out.size()) ||
        !runtime.Charge(1 + static_cast<int64_t>(indention.bytes.size() / 16))) {
      return Value();
    }
  }
  Str result = out.Take();
  result.markup = subject.str().markup;
  return runtime.String(std::move(result));
}

Value Format(Runtime& runtime, const Value& subject, CallArgs& args) {
  if (!args.named.empty() && !args.positional.empty()) {
    return runtime.Fail("format takes positional or keyword arguments, not both");
  }
  const Value text = runtime.String(runtime.ToStr(subject));
  if (!runtime.ok()) return Value();
  if (args.named.empty()) {
    return PercentFormat(runtime, text, runtime.Tuple(std::move(args.positional)));
  }
  auto dict = std::make_shared<Dict>();
  for (auto& [name, value] : args.named) {
    runtime.SetItem(dict.get(), Value(Plain(name)), std::move(value));
  }
  return PercentFormat(runtime, text, runtime.FinishDict(std::move(dict)));
}

Value Center(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("center", args, {"width"});
  CallArgs width;
  width.positional.push_back(bound[0].missing() ? Value(80) : bound[0]);
  const Value text = runtime.String(runtime.ToStr(subject));
  return runtime.ok() ? CallStringMethod(runtime, text, "center", width) : Value();
}

Value Truncate(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("truncate", args, {"length", "killwords", "end", "leeway"});
  if (!subject.string()) return runtime.FailType("truncate needs a string", subject);
  const int64_t length = runtime.IntArg(bound[0], 255);
  const int64_t leeway = bound[3].none() ? 5 : runtime.IntArg(bound[3], 5);
  const Str end = bound[2].missing() ? Plain("...") : runtime.ToStr(bound[2]);
  const int64_t kept = length - CountCodePoints(end.bytes);
  if (kept < 0 || leeway < 0) return runtime.Fail("truncate: length or leeway is too small");
  const Str& text = subject.str();
  if (CountCodePoints(text.bytes) - leeway <= length) return subject;
  size_t cut = ByteOffset(text.bytes, kept);
  if (!runtime.BoolArg(bound[1], false)) {
    const size_t space = text.bytes.substr(0, cut).rfind(' ');
    if (space != std::string::npos) cut = space;
  }
  StrBuilder out;
  out.AppendSlice(text, 0, cut);
  out.Append(end);
  return runtime.String(out.Take());
}

Value WordCount(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("wordcount", args, {});
  const Str text = runtime.ToStr(subject);
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.bytes.size(); at += CodePointBytes(text.bytes, at)) {
    const bool word = IsWord(DecodeAt(text.bytes, at));
    words += word && !inside;
    inside = word;
  }
  return Value(words);
}

bool IndentOf(Runtime& runtime, const Value& indent, JsonStyle* style) {
  if (indent.missing() || indent.none()) return true;
  style->indented = true;
  style->item_separator = ",";
  if (indent.string()) {
    style->indent = indent.bytes();
    return true;
  }
  const int64_t width = std::max<int64_t>(runtime.IntArg(indent, 0), 0);
  if (width > 1000) runtime.Fail("tojson: this indent is too wide");
  if (runtime.ok()) style->indent.assign(static_cast<size_t>(width), ' ');
  return runtime.ok();
}

Value ToJsonFilter(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound =
      runtime.Bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = runtime.BoolArg(bound[0], false);
  style.sort_keys = runtime.BoolArg(bound[3], false);
  if (!IndentOf(runtime, bound[1], &style)) return Value();
  if (!bound[2].missing() && !bound[2].none()) {
    const std::vector<Value> separators = runtime.Items(bound[2]);
    if (separators.size() != 2 || !separators[0].string() || !separators[1].string()) {
      return runtime.Fail("tojson: separators must be two strings");
    }
    style.item_separator = separators[0].bytes();
    style.key_separator = separators[1].bytes();
  }
  return runtime.ok() ? ToJson(runtime, subject, style) : Value();
}

// What llama.cpp's templates use; not in the reference.
Value FromJson(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("from_json", args, {});
  if (!subject.string()) return runtime.FailType("from_json needs a string", subject);
  const Json parsed = Json::parse(subject.bytes(), nullptr, false);
  if (parsed.is_discarded()) return runtime.Fail("from_json: this text is not valid JSON");
  return FromJsonValue(runtime, parsed, !subject.str().all_template());
}

// int("text", base) and float("text"): empty when the text is not a number.
std::optional<int64_t> ParseInt(std::string_view text, int base) {
  const ByteRange range = TrimSpace(text);
  text = text.substr(range.begin, range.end - range.begin);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between = i > 0 && i + 1 < text.size() && absl::ascii_isalnum(text[i - 1]) &&
                         absl::ascii_isalnum(text[i + 1]);
    if (text[i] == '_' && !between) return std::nullopt;
    if (text[i] != '_') digits += text[i];
  }
  if (base == 10 && !std::all_of(digits.begin(), digits.end(), [](char c) {
        return absl::ascii_isdigit(c) || c == '-' || c == '+';
      })) {
    return std::nullopt;
  }
  if (digits.empty()) return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const int64_t value = std::strtoll(digits.c_str(), &end, base);
  if (errno != 0 || end != digits.c_str() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> ParseFloat(std::string_view text) {
  const ByteRange range = TrimSpace(text);
  text = text.substr(range.begin, range.end - range.begin);
  if (text.find_first_of("xX(") != std::string_view::npos) return std::nullopt;
  return ParseDouble(text);
}

Value ToInt(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("int", args, {"default", "base"});
  const Value otherwise = bound[0].missing() ? Value(0) : bound[0];
  const int64_t base = runtime.IntArg(bound[1], 10);
  if (!runtime.ok()) return Value();
  if (subject.undefined()) return runtime.FailUndefined(subject);
  if (subject.integral()) return Value(subject.as_int());
  std::optional<double> number;
  if (subject.is(Kind::kFloat)) number = subject.as_double();
  if (subject.string()) {
    if (base != 0 && (base < 2 || base > 36)) return otherwise;
    if (const auto value = ParseInt(subject.bytes(), static_cast<int>(base))) return Value(*value);
    number = ParseFloat(subject.bytes());
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  if (std::abs(*number) >= 9.2e18) return runtime.Fail("an integer does not fit 64 bits");
  return Value(static_cast<int64_t>(*number));
}

Value ToFloat(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("float", args, {"default"});
  if (!runtime.ok()) return Value();
  if (subject.undefined()) return runtime.FailUndefined(subject);
  if (subject.number()) return Value(subject.as_double());
  if (subject.string()) {
    if (const auto value = ParseFloat(subject.bytes())) return Value(*value);
  }
  return bound[0].missing() ? Value(0.0) : bound[0];
}

Value Abs(Runtime& runtime, const Value& subject, CallArgs& args) {
  runtime.Bind("abs", args, {});
  if (!subject.number()) return runtime.FailType("abs needs a number", subject);
  if (subject.is(Kind::kFloat)) return Value(std::abs(subject.as_double()));
  return subject.as_int() < 0 ? runtime.Unary(ExprKind::kNeg, subject) : Value(subject.as_int());
}

Value Round(Runtime& runtime, const Value& subject, CallArgs& args) {
  const auto bound = runtime.Bind("round", args, {"precision", "method"});
  if (!subject.number()) return runtime.FailType("round needs a number", subject);
  const int64_t precision = runtime.IntArg(bound[0], 0);
  const std::string method = bound[1].missing() ? "common" : runtime.ToStr(bound[1]).bytes;
  if (precision < 0 || precision > 100) {
    return runtime.Fail("round: the precision must be between 0 and 100");
  }
  if (method == "common" && subject.integral()) return Value(subject.as_int());
  const double number = subject.as_double();
  if (method == "common") {
    if (!std::isfinite(number)) return subject;
    char buffer[512];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), number);
    return Value(std::strtod(buffer, nullptr));
  }
  if (method != "ceil" && method != "floor") {
    return runtime.Fail("round: the method must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = number * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr FilterDef kStringFilters[] = {
    {"upper", Case<CaseMap::kUpper>},
    {"lower", Case<CaseMap::kLower>},
    {"capitalize", Case<CaseMap::kCapitalize>},
    {"title", Title},
    {"trim", Trim},
    {"string", ToString},
    {"safe", Safe},
    {"escape", Escape},
    {"e", Escape},
    {"forceescape", ForceEscape},
    {"replace", Replace},
    {"indent", Indent},
    {"format", Format},
    {"center", Center},
    {"truncate", Truncate},
    {"wordcount", WordCount},
    {"tojson", ToJsonFilter},
    {"from_json", FromJson},
    {"int", ToInt},
    {"float", ToFloat},
    {"abs", Abs},
    {"round", Round},
};

}  // namespace

FilterList StringFilters() { return {kStringFilters, std::size(kStringFilters)}; }

}  // namespace finetuned::text::jinja
