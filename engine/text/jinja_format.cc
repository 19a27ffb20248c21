#include "engine/text/jinja_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"

namespace finetuned::text::jinja {
namespace {

constexpr int kScientificFrom = 16;   // digits before the point from which repr uses an exponent
constexpr int kScientificBelow = -4;  // smallest exponent repr writes without one

void AppendQuoted(const Str& text, StrBuilder* out) {
  const bool single =
      text.bytes.find('\'') == std::string::npos || text.bytes.find('"') != std::string::npos;
  const char quote = single ? '\'' : '"';
  std::string quoted(1, quote);
  for (size_t at = 0; at < text.bytes.size();) {
    const char32_t code = DecodeAt(text.bytes, at);
    const size_t bytes = CodePointBytes(text.bytes, at);
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      quoted += {'\\', static_cast<char>(code)};
    } else if (code == '\n') {
      quoted += "\\n";
    } else if (code == '\r') {
      quoted += "\\r";
    } else if (code == '\t') {
      quoted += "\\t";
    } else if (IsPrintable(code)) {
      quoted.append(text.bytes, at, bytes);
    } else if (code < 0x100) {
      absl::StrAppendFormat(&quoted, "\\x%02x", static_cast<unsigned>(code));
    } else if (code < 0x10000) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<unsigned>(code));
    } else {
      absl::StrAppendFormat(&quoted, "\\U%08x", static_cast<unsigned>(code));
    }
    at += bytes;
  }
  quoted += quote;
  out->Append(quoted, !text.all_template());
}

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  void Write(const Value& value, int depth) {
    if (!runtime_.Charge(1) || !runtime_.FitsOutput(out_.size())) return;
    switch (value.kind()) {
      case Kind::kNone:
        out_.Append("null");
        break;
      case Kind::kBool:
        out_.Append(value.as_bool() ? "true" : "false");
        break;
      case Kind::kInt:
        out_.Append(Cat(value.as_int()));
        break;
      case Kind::kFloat:
        out_.Append(Number(value.as_double()));
        break;
      case Kind::kString:
        WriteString(value.str());
        break;
      case Kind::kDict:
        WriteDict(value.dict(), depth);
        break;
      case Kind::kSequence:
        if (value.seq()->kind <= SeqKind::kTuple) {
          WriteList(value.seq()->items, depth);
          break;
        }
        [[fallthrough]];
      default:
        runtime_.Fail(Cat("Object of type ", TypeName(value), " is not JSON serializable"));
    }
  }

  Str Take() { return out_.Take(); }

 private:
  static std::string Number(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
    return FloatRepr(number);
  }

  void NewLine(int depth) {
    if (!style_.indented) return;
    out_.Append("\n");
    for (int i = 0; i < depth; ++i) out_.Append(style_.indent);
  }

  void WriteList(const std::vector<Value>& items, int depth) {
    out_.Append("[");
    for (size_t i = 0; i < items.size() && runtime_.ok(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine(depth + 1);
      Write(items[i], depth + 1);
    }
    if (!items.empty()) NewLine(depth);
    out_.Append("]");
  }

  void WriteDict(const Dict& dict, int depth) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::string error;
      std::stable_sort(entries.begin(), entries.end(), [&error](const auto* a, const auto* b) {
        return Less(a->first, b->first, &error);
      });
      if (!error.empty()) runtime_.Fail(error);
    }
    out_.Append("{");
    for (size_t i = 0; i < entries.size() && runtime_.ok(); ++i) {
      if (i > 0) out_.Append(style_.item_separator);
      NewLine(depth + 1);
      WriteKey(entries[i]->first);
      out_.Append(style_.key_separator);
      Write(entries[i]->second, depth + 1);
    }
    if (!entries.empty()) NewLine(depth);
    out_.Append("}");
  }

  void WriteKey(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        WriteString(key.str());
        break;
      case Kind::kNone:
        out_.Append("\"null\"");
        break;
      case Kind::kBool:
        out_.Append(key.as_bool() ? "\"true\"" : "\"false\"");
        break;
      case Kind::kInt:
        out_.Append(Cat("\"", key.as_int(), "\""));
        break;
      case Kind::kFloat:
        out_.Append(Cat("\"", Number(key.as_double()), "\""));
        break;
      default:
        runtime_.Fail(Cat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    }
  }

  void WriteString(const Str& text) {
    if (!runtime_.Charge(1 + static_cast<int64_t>(text.bytes.size() / 16))) return;
    std::string quoted = "\"";
    for (size_t at = 0; at < text.bytes.size();) {
      const char32_t code = DecodeAt(text.bytes, at);
      const size_t bytes = CodePointBytes(text.bytes, at);
      AppendEscaped(code, std::string_view(text.bytes).substr(at, bytes), &quoted);
      at += bytes;
    }
    quoted += '"';
    out_.Append(quoted, !text.all_template());
  }

  void AppendEscaped(char32_t code, std::string_view bytes, std::string* quoted) const {
    switch (code) {
      case '"':
        *quoted += "\\\"";
        return;
      case '\\':
        *quoted += "\\\\";
        return;
      case '\n':
        *quoted += "\\n";
        return;
      case '\r':
        *quoted += "\\r";
        return;
      case '\t':
        *quoted += "\\t";
        return;
      case '\b':
        *quoted += "\\b";
        return;
      case '\f':
        *quoted += "\\f";
        return;
      default:
        break;
    }
    const auto escape = [quoted](unsigned unit) { absl::StrAppendFormat(quoted, "\\u%04x", unit); };
    if (code >= 0x20 && (!style_.ensure_ascii || code < 0x7F)) {
      quoted->append(bytes);
    } else if (code < 0x10000) {
      escape(code);
    } else {
      escape(0xD800 + ((code - 0x10000) >> 10));
      escape(0xDC00 + ((code - 0x10000) & 0x3FF));
    }
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  StrBuilder out_;
};

}  // namespace

std::string FloatRepr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto [end, error] =
      std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific);
  std::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (shortest[0] == '-') {
    out = "-";
    shortest.remove_prefix(1);
  }
  const size_t mark = shortest.find('e');
  const int exponent = std::atoi(std::string(shortest.substr(mark + 1)).c_str());
  std::string digits(1, shortest[0]);
  if (mark > 2) digits.append(shortest.substr(2, mark - 2));
  if (exponent < kScientificBelow || exponent >= kScientificFrom) {
    out += digits[0];
    if (digits.size() > 1) CatTo(&out, ".", digits.substr(1));
    absl::StrAppendFormat(&out, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    CatTo(&out, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    const std::string fraction = digits.substr(whole);
    CatTo(&out, digits.substr(0, whole), ".", fraction.empty() ? "0" : fraction);
  }
  return out;
}

Value ToJson(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.Write(value, 0);
  if (!runtime.ok()) return Value();
  Str text = writer.Take();
  if (!text.user.empty()) text.user = {{0, text.bytes.size()}};
  return runtime.String(std::move(text));
}

Str Runtime::ToStr(const Value& value) {
  if (value.string()) return value.str();
  StrBuilder out;
  AppendStr(value, &out);
  return out.Take();
}

void Runtime::AppendStr(const Value& value, StrBuilder* out) {
  if (value.string()) {
    if (FitsOutput(out->size() + value.bytes().size()) && Charge(Weight(value))) {
      out->Append(value.str());
    }
  } else if (!value.undefined()) {
    AppendRepr(value, out);
  }
}

void Runtime::AppendRepr(const Value& value, StrBuilder* out, int depth) {
  if (!ok() || !Charge(1) || !FitsOutput(out->size())) return;
  if (depth > limits_.max_depth) {
    Exhaust(Cat("a value is nested more than ", limits_.max_depth, " deep"));
    return;
  }
  const auto items = [&](const std::vector<Value>& values) {
    for (size_t i = 0; i < values.size() && ok(); ++i) {
      if (i > 0) out->Append(", ");
      AppendRepr(values[i], out, depth + 1);
    }
  };
  const auto dict = [&](const Dict& values) {
    out->Append("{");
    bool first = true;
    for (const auto& [key, item] : values.entries) {
      if (!ok()) return;
      if (!std::exchange(first, false)) out->Append(", ");
      AppendRepr(key, out, depth + 1);
      out->Append(": ");
      AppendRepr(item, out, depth + 1);
    }
    out->Append("}");
  };
  switch (value.kind()) {
    case Kind::kUndefined:
      out->Append("Undefined");
      break;
    case Kind::kNone:
      out->Append("None");
      break;
    case Kind::kBool:
      out->Append(value.as_bool() ? "True" : "False");
      break;
    case Kind::kInt:
      out->Append(Cat(value.as_int()));
      break;
    case Kind::kFloat:
      out->Append(FloatRepr(value.as_double()));
      break;
    case Kind::kString:
      if (!Charge(static_cast<int64_t>(value.bytes().size() / 16))) return;
      if (value.str().markup) out->Append("Markup(");
      AppendQuoted(value.str(), out);
      if (value.str().markup) out->Append(")");
      break;
    case Kind::kDict:
      dict(value.dict());
      break;
    case Kind::kNamespace:
      out->Append("<Namespace ");
      dict(value.ns().attributes);
      out->Append(">");
      break;
    case Kind::kSequence: {
      const Sequence& seq = *value.seq();
      switch (seq.kind) {
        case SeqKind::kList:
          out->Append("[");
          items(seq.items);
          out->Append("]");
          break;
        case SeqKind::kTuple:
          out->Append("(");
          items(seq.items);
          out->Append(seq.items.size() == 1 ? ",)" : ")");
          break;
        case SeqKind::kRange:
          out->Append(Cat("range(", seq.start, ", ", seq.stop,
                          seq.step == 1 ? "" : Cat(", ", seq.step), ")"));
          break;
        case SeqKind::kIterator:
          out->Append("<generator object>");
          break;
        default:
          out->Append(Cat(TypeName(value), "(["));
          items(seq.items);
          out->Append("])");
      }
      break;
    }
    case Kind::kMacro:
      out->Append(Cat("<Macro '", value.macro().node->name, "'>"));
      break;
    case Kind::kMethod:
      out->Append(Cat("<built-in method ", value.method().name, ">"));
      break;
    case Kind::kFunction:
      out->Append(Cat("<function ", value.function().name, ">"));
      break;
    case Kind::kLoop: {
      const int64_t length = Length(value);
      out->Append(Cat("<LoopContext ", value.loop().index0 + 1, "/", length, ">"));
      break;
    }
  }
}

}  // namespace finetuned::text::jinja
