#include "engine/data/json_scanner.h"

#include <charconv>
#include <cstdint>
#include <limits>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (code >> 6)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (code >> 12)));
    out->push_back(static_cast<char>(0x80 | ((code >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | (code >> 18)));
    out->push_back(static_cast<char>(0x80 | ((code >> 12) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | ((code >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

}  // namespace

void JsonScanner::SkipSpace() {
  while (!AtEnd() && (Peek() == ' ' || Peek() == '\t' || Peek() == '\r' || Peek() == '\n')) {
    ++position_;
  }
}

bool JsonScanner::Accept(char c) {
  if (AtEnd() || Peek() != c) return false;
  ++position_;
  return true;
}

size_t JsonScanner::Column() const {
  size_t column = 1;
  for (char c : text_.substr(0, position_)) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++column;
  }
  return column;
}

bool JsonScanner::Fail(const char* reason, absl::string_view what) {
  reason_ = reason;
  message_ = absl::StrCat(what, " (column ", Column(), ")");
  return false;
}

bool JsonScanner::Unexpected(absl::string_view expected) {
  if (AtEnd()) {
    return Fail("JSON_TRUNCATED",
                absl::StrCat("unexpected end of JSON: the line ends where ", expected,
                             " is expected; each row must be complete on one line"));
  }
  return Fail("JSON_SYNTAX", absl::StrCat("JSON syntax error: expected ", expected, ", found ",
                                          Quoted(text_.substr(position_, 1))));
}

bool JsonScanner::String(std::string* out) {
  Accept('"');
  while (true) {
    const size_t start = position_;
    while (!AtEnd() && Peek() != '"' && Peek() != '\\' &&
           static_cast<unsigned char>(Peek()) >= 0x20) {
      ++position_;
    }
    if (out) out->append(text_.substr(start, position_ - start));
    if (AtEnd()) {
      return Fail("JSON_TRUNCATED",
                  "unexpected end of JSON: the line ends inside a string; each row must be "
                  "complete on one line");
    }
    if (Accept('"')) return true;
    if (Peek() == '\\') {
      if (!Escape(out)) return false;
      continue;
    }
    return Fail("CONTROL_CHARACTER",
                absl::StrFormat("unescaped control character 0x%02x inside a string; write it as "
                                "\\u%04x",
                                Peek(), Peek()));
  }
}

bool JsonScanner::Escape(std::string* out) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  const size_t start = position_;
  ++position_;
  if (AtEnd()) return Unexpected("the rest of an escape");
  const char c = Peek();
  if (c == 'u') {
    ++position_;
    return UnicodeEscape(out);
  }
  const size_t index = kNames.find(c);
  if (index == std::string_view::npos) {
    Rewind(start);
    return Fail("JSON_SYNTAX",
                absl::StrCat("JSON syntax error: unknown escape ", Quoted(text_.substr(start, 2))));
  }
  ++position_;
  if (out) out->push_back(kValues[index]);
  return true;
}

int JsonScanner::HexDigits() {
  if (text_.size() - position_ < 4) return -1;
  unsigned value = 0;
  const char* begin = text_.data() + position_;
  const auto [end, error] = std::from_chars(begin, begin + 4, value, 16);
  if (error != std::errc() || end != begin + 4) return -1;
  position_ += 4;
  return static_cast<int>(value);
}

bool JsonScanner::UnicodeEscape(std::string* out) {
  const size_t start = position_ - 2;
  const int first = HexDigits();
  if (first < 0) {
    return Fail("JSON_SYNTAX", "JSON syntax error: \\u needs four hexadecimal digits");
  }
  uint32_t code = static_cast<uint32_t>(first);
  if (code >= 0xD800 && code <= 0xDFFF) {
    int second = -1;
    if (code < 0xDC00 && text_.substr(position_, 2) == "\\u") {
      position_ += 2;
      second = HexDigits();
    }
    if (second < 0xDC00 || second > 0xDFFF) {
      Rewind(start);
      return Fail("LONE_SURROGATE",
                  absl::StrFormat("the escape \\u%04x is half of a surrogate pair without the "
                                  "other half; it stands for no character",
                                  code));
    }
    code = 0x10000 + ((code - 0xD800) << 10) + (static_cast<uint32_t>(second) - 0xDC00);
  }
  if (out) AppendUtf8(code, out);
  return true;
}

bool JsonScanner::Scalar(text::Json* out, bool* exact) {
  const auto literal = [&](std::string_view word) {
    if (text_.substr(position_, word.size()) != word) return false;
    position_ += word.size();
    return true;
  };
  if (IsDigit(Peek()) ||
      (Peek() == '-' && position_ + 1 < text_.size() && IsDigit(text_[position_ + 1]))) {
    return Number(out, exact);
  }
  if (literal("true") || literal("false")) {
    if (out) *out = text_[position_ - 2] == 'u';
    return true;
  }
  if (literal("null")) {
    if (out) *out = nullptr;
    return true;
  }
  for (std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
    if (text_.substr(position_, word.size()) == word) {
      return Fail("JSON_SYNTAX",
                  absl::StrCat("JSON syntax error: ", ForAbseil(word), " is not JSON; write null"));
    }
  }
  return Unexpected("a value");
}

size_t JsonScanner::SkipDigits() {
  const size_t start = position_;
  while (!AtEnd() && IsDigit(Peek())) ++position_;
  return position_ - start;
}

bool JsonScanner::Number(text::Json* out, bool* exact) {
  const size_t start = position_;
  bool integer = true;
  Accept('-');
  const bool zero_first = Peek() == '0';
  if (SkipDigits() > 1 && zero_first) {
    Rewind(start);
    return Fail("JSON_SYNTAX", "JSON syntax error: a number must not begin with 0");
  }
  if (Accept('.')) {
    integer = false;
    if (SkipDigits() == 0) return Unexpected("a digit after the decimal point");
  }
  if (!AtEnd() && (Peek() == 'e' || Peek() == 'E')) {
    integer = false;
    ++position_;
    if (!Accept('+')) Accept('-');
    if (SkipDigits() == 0) return Unexpected("a digit of the exponent");
  }
  if (!out) return true;
  const char* begin = text_.data() + start;
  const char* end = text_.data() + position_;
  if (integer) {
    int64_t small = 0;
    uint64_t large = 0;
    if (std::from_chars(begin, end, small).ec == std::errc()) {
      *out = small;
      return true;
    }
    if (*begin != '-' && std::from_chars(begin, end, large).ec == std::errc()) {
      *out = large;
      return true;
    }
    *exact = false;
  }
  double real = 0;
  if (std::from_chars(begin, end, real).ec != std::errc()) *exact = false;
  *out = real;
  return true;
}

}  // namespace finetuned::data
