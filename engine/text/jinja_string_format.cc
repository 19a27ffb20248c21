#include <algorithm>
#include <cctype>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "engine/text/jinja_format.h"

// "%s" % values and "{}".format(values).
namespace finetuned::text::jinja {
namespace {

constexpr int kMaxWidth = 10'000;

struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ =, 0 for the default of the type
  char sign = 0;   // + or space
  bool alternate = false, zero = false, comma = false;
  int width = 0;
  int precision = -1;
  char type = 0;
};

bool ParseInt(std::string_view text, size_t* at, int* out) {
  int value = 0;
  while (*at < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[*at]))) {
    value = value * 10 + (text[*at] - '0');
    if (value > kMaxWidth) return false;
    ++*at;
  }
  *out = value;
  return true;
}

// Digits of a number without sign, by a printf conversion.
std::string Digits(double number, const Spec& spec, char type) {
  const std::string flags = spec.alternate ? "#" : "";
  const auto format = Cat("%", flags, ".*", std::string(1, type));
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  const int size = std::snprintf(nullptr, 0, format.c_str(), precision, number);
  std::string out(static_cast<size_t>(std::max(size, 0)) + 1, '\0');
  std::snprintf(out.data(), out.size(), format.c_str(), precision, number);
  out.pop_back();
  return out;
}

std::string IntDigits(uint64_t number, const Spec& spec) {
  std::string out;
  switch (spec.type) {
    case 'x':
      out = absl::StrFormat("%x", number);
      break;
    case 'X':
      out = absl::StrFormat("%X", number);
      break;
    case 'o':
      out = absl::StrFormat("%o", number);
      break;
    case 'b':
      do {
        out.insert(out.begin(), static_cast<char>('0' + number % 2));
        number /= 2;
      } while (number > 0);
      break;
    default:
      out = Cat(number);
  }
  if (spec.comma) {
    for (int i = static_cast<int>(out.size()) - 3; i > 0; i -= 3) {
      out.insert(static_cast<size_t>(i), ",");
    }
  }
  const bool prefixed =
      spec.alternate && std::string_view("xXob").find(spec.type) != std::string::npos;
  return prefixed ? Cat("0", std::string(1, spec.type), out) : out;
}

// Text padded to the width in code points. Numbers align right, text left by default.
Str Pad(const Str& body, const Spec& spec, char default_align, std::string_view sign = {}) {
  const int64_t length = CountCodePoints(body.bytes) + static_cast<int64_t>(sign.size());
  const int64_t missing = std::max<int64_t>(spec.width - length, 0);
  const char align = spec.align != 0 ? spec.align : default_align;
  const int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  StrBuilder out;
  const auto fill = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) out.Append(spec.fill);
  };
  fill(left);
  out.Append(sign);
  if (align == '=') fill(missing);
  out.Append(body);
  if (align != '=') fill(missing - left);
  return out.Take();
}

Str FormatNumber(Runtime& runtime, const Value& value, Spec spec) {
  const bool is_float =
      std::string_view("eEfFgG%").find(spec.type) != std::string::npos && spec.type != 0;
  std::string digits;
  bool negative = false;
  if (is_float || value.is(Kind::kFloat)) {
    double number = value.as_double();
    negative = std::signbit(number) && !std::isnan(number);
    number = std::abs(number);
    if (spec.type == '%') {
      digits = Cat(Digits(number * 100, spec, 'f'), "%");
    } else if (is_float) {
      digits = Digits(number, spec, spec.type);
    } else if (spec.type == 0) {
      digits = spec.precision < 0 ? FloatRepr(number) : Digits(number, spec, 'g');
    } else {
      runtime.Fail("this format needs an integer");
    }
  } else {
    negative = value.as_int() < 0;
    const auto bits = static_cast<uint64_t>(value.as_int());
    digits = IntDigits(negative ? 0 - bits : bits, spec);
  }
  const std::string sign = negative ? "-" : spec.sign != 0 ? std::string(1, spec.sign) : "";
  if (spec.zero && spec.align == 0) {
    spec.align = '=';
    spec.fill = "0";
  }
  return Pad(Plain(digits), spec, '>', sign);
}

Str Truncated(const Str& text, int precision) {
  return precision < 0 ? text : Slice(text, 0, ByteOffset(text.bytes, precision));
}

// One printf-style format over the arguments of %.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Str& format, const Value& args)
      : runtime_(runtime), format_(format), args_(args) {
    const bool tuple = args.is(Kind::kSequence) && args.seq()->kind == SeqKind::kTuple;
    if (tuple) {
      values_ = args.seq()->items;
    } else {
      values_.push_back(args);
    }
  }

  Value Run() {
    const std::string& text = format_.bytes;
    size_t at = 0;
    while (at < text.size() && runtime_.ok()) {
      const size_t mark = std::min(text.find('%', at), text.size());
      out_.AppendSlice(format_, at, mark);
      at = mark;
      if (at < text.size()) Convert(&at);
      if (!runtime_.FitsOutput(out_.size()) || !runtime_.Charge(1)) break;
    }
    const bool takes_unused = args_.is(Kind::kDict) || args_.undefined();
    if (runtime_.ok() && next_ < values_.size() && !named_ && !takes_unused) {
      return runtime_.Fail("not all arguments converted during string formatting");
    }
    return runtime_.String(out_.Take());
  }

 private:
  void Convert(size_t* at) {
    const std::string& text = format_.bytes;
    ++*at;
    Value value;
    bool has_value = false;
    if (*at < text.size() && text[*at] == '(') {
      const size_t close = std::min(text.find(')', *at), text.size());
      value = runtime_.GetItem(args_, Value(Plain(text.substr(*at + 1, close - *at - 1))));
      if (!args_.is(Kind::kDict)) runtime_.Fail("format requires a mapping");
      if (value.undefined()) runtime_.FailUndefined(value);
      has_value = named_ = true;
      *at = std::min(close + 1, text.size());
    }
    Spec spec;
    for (; *at < text.size() && std::string_view("-+ #0").find(text[*at]) != std::string::npos;
         ++*at) {
      switch (text[*at]) {
        case '-':
          spec.align = '<';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          spec.zero = true;
          break;
        default:
          if (spec.sign != '+') spec.sign = text[*at];
      }
    }
    bool fits = ParseInt(text, at, &spec.width);
    if (fits && *at < text.size() && text[*at] == '.') {
      ++*at;
      fits = ParseInt(text, at, &spec.precision);
    }
    if (!fits || *at >= text.size()) {
      runtime_.Fail("incomplete or too wide format");
      return;
    }
    spec.type = text[(*at)++];
    if (spec.type == '%') {
      out_.Append("%");
      return;
    }
    if (!has_value) {
      if (next_ >= values_.size()) {
        runtime_.Fail("not enough arguments for format string");
        return;
      }
      value = values_[next_++];
    }
    AppendConverted(value, spec);
  }

  void AppendConverted(const Value& value, Spec spec) {
    if (spec.type == 's' || spec.type == 'r') {
      StrBuilder shown;
      spec.type == 's' ? runtime_.AppendStr(value, &shown) : runtime_.AppendRepr(value, &shown);
      out_.Append(Pad(Truncated(shown.str(), spec.precision), spec, '>'));
      return;
    }
    if (std::string_view("diuxXoeEfFgG").find(spec.type) == std::string::npos) {
      runtime_.Fail(Cat("unsupported format character '", std::string(1, spec.type), "'"));
      return;
    }
    if (!value.number()) {
      runtime_.FailType(Cat("%", std::string(1, spec.type), " format: a number is required"),
                        value);
      return;
    }
    const bool decimal = std::string_view("diu").find(spec.type) != std::string::npos;
    if (decimal) spec.type = 'd';
    if (decimal && value.is(Kind::kFloat)) {
      const double number = std::trunc(value.as_double());
      if (!(std::abs(number) < 9e18)) {
        runtime_.Fail("an integer does not fit 64 bits");
        return;
      }
      out_.Append(FormatNumber(runtime_, Value(static_cast<int64_t>(number)), spec));
    } else {
      out_.Append(FormatNumber(runtime_, value, spec));
    }
  }

  Runtime& runtime_;
  const Str& format_;
  const Value& args_;
  std::vector<Value> values_;
  size_t next_ = 0;
  bool named_ = false;
  StrBuilder out_;
};

// One str.format call.
class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Str& format, const CallArgs& args)
      : runtime_(runtime), format_(format), args_(args) {}

  Value Run() {
    const std::string& text = format_.bytes;
    for (size_t at = 0; at < text.size() && runtime_.ok();) {
      const size_t mark = std::min(text.find_first_of("{}", at), text.size());
      out_.AppendSlice(format_, at, mark);
      at = mark;
      if (at >= text.size()) break;
      if (at + 1 < text.size() && text[at + 1] == text[at]) {
        out_.AppendSlice(format_, at, at + 1);
        at += 2;
      } else if (text[at] == '}') {
        return runtime_.Fail("Single '}' encountered in format string");
      } else {
        Replace(&at);
      }
      if (!runtime_.FitsOutput(out_.size()) || !runtime_.Charge(1)) break;
    }
    return runtime_.String(out_.Take());
  }

 private:
  void Replace(size_t* at) {
    const std::string& text = format_.bytes;
    const size_t close = text.find('}', *at);
    const size_t nested = text.find('{', *at + 1);
    if (close == std::string::npos) {
      runtime_.Fail("expected '}' before end of string");
      return;
    }
    if (nested < close) {
      runtime_.Fail("nested replacement fields are not supported");
      return;
    }
    std::string_view field = std::string_view(text).substr(*at + 1, close - *at - 1);
    *at = close + 1;
    const size_t colon = field.find(':');
    const std::string_view spec =
        colon == std::string_view::npos ? std::string_view() : field.substr(colon + 1);
    field = field.substr(0, colon);
    char conversion = 0;
    if (const size_t mark = field.find('!'); mark != std::string_view::npos) {
      conversion = mark + 1 < field.size() ? field[mark + 1] : '?';
      field = field.substr(0, mark);
    }
    Value value = Lookup(field);
    if (!runtime_.ok()) return;
    if (conversion == 'r' || conversion == 's') {
      StrBuilder shown;
      conversion == 's' ? runtime_.AppendStr(value, &shown) : runtime_.AppendRepr(value, &shown);
      value = runtime_.String(shown.Take());
    } else if (conversion != 0) {
      runtime_.Fail("unknown conversion in format string");
    }
    AppendFormatted(value, spec);
  }

  // name, 0, or nothing, followed by .attribute and [item].
  Value Lookup(std::string_view field) {
    size_t end = std::min(field.find_first_of(".["), field.size());
    Value value = First(field.substr(0, end));
    while (runtime_.ok() && end < field.size()) {
      const bool item = field[end] == '[';
      const size_t begin = end + 1;
      end =
          std::min(item ? field.find(']', begin) : field.find_first_of(".[", begin), field.size());
      const std::string key(field.substr(begin, end - begin));
      if (item && end < field.size()) ++end;
      const auto index = ParseInteger(key);
      value = !item   ? runtime_.GetAttr(value, key)
              : index ? runtime_.GetItem(value, Value(*index))
                      : runtime_.GetItem(value, Value(Plain(key)));
      if (value.undefined()) runtime_.FailUndefined(value);
    }
    return value;
  }

  Value First(std::string_view name) {
    const auto number = ParseInteger(name);
    int64_t index = number.value_or(-1);
    if (name.empty()) {
      index = next_++;
    } else if (!number) {
      for (const auto& [key, value] : args_.named) {
        if (key == name) return value;
      }
      return runtime_.Fail(Cat("format string misses the argument '", name, "'"));
    }
    if (index < 0 || index >= static_cast<int64_t>(args_.positional.size())) {
      return runtime_.Fail("format string has more fields than arguments");
    }
    return args_.positional[static_cast<size_t>(index)];
  }

  bool ParseSpec(std::string_view text, Spec* spec) {
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    size_t at = 0;
    const size_t first = text.empty() ? 0 : CodePointBytes(text, 0);
    if (first < text.size() && is_align(text[first])) {
      spec->fill = std::string(text.substr(0, first));
      spec->align = text[first];
      at = first + 1;
    } else if (!text.empty() && is_align(text[0])) {
      spec->align = text[at++];
    }
    const auto take = [&](std::string_view any) {
      const bool found = at < text.size() && any.find(text[at]) != std::string_view::npos;
      return found ? text[at++] : '\0';
    };
    const char sign = take("+- ");
    if (sign != '-') spec->sign = sign;
    spec->alternate = take("#") != 0;
    spec->zero = take("0") != 0;
    if (!ParseInt(text, &at, &spec->width)) return false;
    spec->comma = take(",") != 0;
    if (take(".") != 0 && !ParseInt(text, &at, &spec->precision)) return false;
    spec->type = take("sdbxXoeEfFgG%");
    return at == text.size();
  }

  void AppendFormatted(const Value& value, std::string_view text) {
    Spec spec;
    if (!ParseSpec(text, &spec)) {
      runtime_.Fail(Cat("invalid format specifier '", text, "'"));
    } else if (text.empty() || value.string()) {
      if (spec.type != 0 && spec.type != 's') runtime_.Fail("this format needs a number");
      out_.Append(Pad(Truncated(runtime_.ToStr(value), spec.precision), spec, '<'));
    } else if (value.number() && spec.type != 's') {
      if (spec.type == 'd') spec.type = value.is(Kind::kFloat) ? 'd' : 0;
      out_.Append(FormatNumber(runtime_, value, spec));
    } else {
      runtime_.FailType("unsupported format specifier", value);
    }
  }

  Runtime& runtime_;
  const Str& format_;
  const CallArgs& args_;
  int64_t next_ = 0;
  StrBuilder out_;
};

}  // namespace

Value PercentFormat(Runtime& runtime, const Value& format, const Value& args) {
  return PercentFormatter(runtime, format.str(), args).Run();
}

Value BraceFormat(Runtime& runtime, const Value& format, CallArgs& args) {
  return BraceFormatter(runtime, format.str(), args).Run();
}

}  // namespace finetuned::text::jinja
