#include "engine/text/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "engine/text/jinja_text.h"

namespace finetuned::text::jinja {
namespace {

// \r\n and \r become \n, and one newline at the very end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (status_.ok() && at_ < source_.size()) LexText();
    if (!status_.ok()) return status_;
    Add(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  // Text up to the next tag, and that tag.
  void LexText() {
    const size_t open = FindTag(at_);
    if (open == std::string::npos) {
      AddText(at_, source_.size());
      at_ = source_.size();
      return;
    }
    const char type = source_[open + 1];
    size_t inner = open + 2;
    char sign = 0;
    if (inner < source_.size() && (source_[inner] == '-' || source_[inner] == '+')) {
      sign = source_[inner++];
    }
    AddText(at_, StripBefore(open, type, sign));
    at_ = inner;
    if (type == '#') {
      SkipComment(open);
    } else if (type == '%' && LexRaw(open)) {
      return;
    } else {
      Add(type == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, open);
      LexTag(open, type == '%' ? '%' : '}');
    }
  }

  size_t FindTag(size_t from) const {
    for (size_t i = from; (i = source_.find('{', i)) != std::string::npos; ++i) {
      if (i + 1 < source_.size() &&
          (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) {
        return i;
      }
    }
    return std::string::npos;
  }

  // End of the text before a tag once white space is removed.
  size_t StripBefore(size_t open, char type, char sign) const {
    const std::string_view text = std::string_view(source_).substr(at_, open - at_);
    if (sign == '-') return at_ + TrimSpace(text, false, true).end;
    if (sign == '+' || type == '{') return open;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return open;
    const bool blank = TrimSpace(text.substr(line), false, true).end == 0;
    return blank ? at_ + line : open;
  }

  void AddText(size_t begin, size_t end) {
    if (begin >= end) return;
    if (!tokens_.empty() && tokens_.back().kind == TokenKind::kText) {
      tokens_.back().text.append(source_, begin, end - begin);
      return;
    }
    Add(TokenKind::kText, begin).text.assign(source_, begin, end - begin);
  }

  // at_ stands after "{#" or "{#-".
  void SkipComment(size_t open) {
    const size_t close = source_.find("#}", at_);
    if (close == std::string::npos) {
      Fail(open, "missing end of comment tag");
      return;
    }
    const char sign = close > at_ ? source_[close - 1] : 0;
    at_ = close + 2;
    StripAfter(sign);
  }

  // Removes white space after a tag or comment that ended at at_.
  void StripAfter(char sign) {
    const size_t end = at_;
    if (sign == '-') {
      at_ += TrimSpace(std::string_view(source_).substr(at_), true, false).begin;
    } else if (sign != '+' && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    line_starting_ = at_ > end && source_[at_ - 1] == '\n';
  }

  size_t SkipSpace(size_t at) const {
    return at + TrimSpace(std::string_view(source_).substr(at), true, false).begin;
  }

  // Matches `WORD -?%}` from `at`; returns the position of %} or npos.
  size_t MatchRawTag(size_t at, std::string_view word) const {
    at = SkipSpace(at);
    if (source_.compare(at, word.size(), word) != 0) return std::string::npos;
    at = SkipSpace(at + word.size());
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    return source_.compare(at, 2, "%}") == 0 ? at : std::string::npos;
  }

  // A raw block, when there is one at at_ (after "{%" and its sign).
  bool LexRaw(size_t open) {
    const size_t close = MatchRawTag(at_, "raw");
    if (close == std::string::npos || source_[close - 1] == '+') return false;
    const bool strip = source_[close - 1] == '-';
    at_ = close + 2;
    if (strip) at_ = SkipSpace(at_);
    line_starting_ = source_[at_ - 1] == '\n';
    for (size_t i = at_; (i = source_.find("{%", i)) != std::string::npos; ++i) {
      size_t inner = i + 2;
      const char sign = inner < source_.size() ? source_[inner] : 0;
      if (sign == '-' || sign == '+') ++inner;
      const size_t end = MatchRawTag(inner, "endraw");
      if (end == std::string::npos) continue;
      AddText(at_, StripBefore(i, '%', inner > i + 2 ? sign : 0));
      at_ = end + 2;
      StripAfter(source_[end - 1]);
      return true;
    }
    Fail(open, "missing end of raw block (endraw)");
    return true;
  }

  // The tokens of one tag; close is the first character of its end ("%}" or "}}").
  void LexTag(size_t open, char close) {
    brackets_.clear();
    while (status_.ok()) {
      at_ = SkipSpace(at_);
      if (at_ >= source_.size()) {
        Fail(open, close == '%' ? "this block tag is never closed with %}"
                                : "this expression is never closed with }}");
        return;
      }
      if (brackets_.empty() && LexTagEnd(close)) return;
      LexOne();
    }
  }

  bool LexTagEnd(char close) {
    char sign = source_[at_];
    size_t end = at_;
    if (sign == '-' || (sign == '+' && close == '%')) {
      ++end;
    } else {
      sign = 0;
    }
    if (end + 1 >= source_.size() || source_[end] != close || source_[end + 1] != '}') return false;
    Add(close == '%' ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, at_);
    at_ = end + 2;
    if (close == '%' || sign == '-') {
      StripAfter(sign);
    } else {
      line_starting_ = false;
    }
    return true;
  }

  void LexOne() {
    const char c = source_[at_];
    if (IsDigit(c)) {
      LexNumber();
    } else if (c == '\'' || c == '"') {
      LexString();
    } else if (IsWord(DecodeAt(source_, at_))) {
      const size_t begin = at_;
      while (at_ < source_.size() && IsWord(DecodeAt(source_, at_))) {
        at_ += CodePointBytes(source_, at_);
      }
      Add(TokenKind::kName, begin).text.assign(source_, begin, at_ - begin);
    } else {
      LexOperator();
    }
  }

  size_t SkipDigits(size_t at) const {
    for (; at < source_.size(); ++at) {
      const bool separator = source_[at] == '_' && IsDigit(source_[at - 1]) &&
                             at + 1 < source_.size() && IsDigit(source_[at + 1]);
      if (!IsDigit(source_[at]) && !separator) break;
    }
    return at;
  }

  void LexNumber() {
    const size_t begin = at_;
    size_t end = SkipDigits(begin);
    bool is_float = false;
    // A number right after a dot is a subscript: x.0.1
    const bool after_dot = begin > 0 && source_[begin - 1] == '.';
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
        end = SkipDigits(end + 1);
        is_float = true;
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
          ++exponent;
        }
        if (exponent < source_.size() && IsDigit(source_[exponent])) {
          end = SkipDigits(exponent);
          is_float = true;
        }
      }
    }
    if (!is_float && LexPrefixed()) return;
    std::string digits = source_.substr(begin, end - begin);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Token& token = Add(is_float ? TokenKind::kFloat : TokenKind::kInteger, begin);
    token.text = digits;
    at_ = end;
    if (is_float) {
      const auto number = ParseDouble(digits);
      if (!number) Fail(begin, "this number is out of range");
      token.number = number.value_or(0);
    } else if (digits[0] == '0' && digits.find_first_not_of('0') != std::string::npos) {
      Fail(begin, "numbers cannot start with 0");
    } else {
      const auto integer = ParseInteger(digits);
      if (!integer) Fail(begin, "integer does not fit 64 bits");
      token.integer = integer.value_or(0);
    }
  }

  // 0x1F, 0o17, 0b11.
  bool LexPrefixed() {
    if (source_[at_] != '0' || at_ + 2 >= source_.size()) return false;
    const char mark = static_cast<char>(source_[at_ + 1] | 0x20);
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (base == 0) return false;
    int64_t value = 0;
    const char* begin = source_.data() + at_ + 2;
    const auto [end, error] = std::from_chars(begin, source_.data() + source_.size(), value, base);
    if (end == begin || *begin == '-') return false;
    if (error != std::errc()) Fail(at_, "integer does not fit 64 bits");
    Token& token = Add(TokenKind::kInteger, at_);
    token.integer = value;
    at_ = static_cast<size_t>(end - source_.data());
    return true;
  }

  void LexString() {
    const size_t begin = at_;
    const char quote = source_[at_++];
    std::string out;
    while (at_ < source_.size() && source_[at_] != quote) {
      if (source_[at_] == '\\') {
        if (at_ + 1 >= source_.size()) break;
        ++at_;
        LexEscape(&out);
        if (!status_.ok()) return;
      } else {
        out.push_back(source_[at_++]);
      }
    }
    if (at_ >= source_.size()) {
      Fail(begin, "this string is never closed");
      return;
    }
    ++at_;
    Add(TokenKind::kString, begin).text = std::move(out);
  }

  // at_ stands after the backslash.
  void LexEscape(std::string* out) {
    const char c = source_[at_++];
    switch (c) {
      case '\n':
        return;
      case '\\':
      case '\'':
      case '"':
        out->push_back(c);
        return;
      case 'n':
        out->push_back('\n');
        return;
      case 't':
        out->push_back('\t');
        return;
      case 'r':
        out->push_back('\r');
        return;
      case 'a':
        out->push_back('\a');
        return;
      case 'b':
        out->push_back('\b');
        return;
      case 'f':
        out->push_back('\f');
        return;
      case 'v':
        out->push_back('\v');
        return;
      case 'x':
        AppendCode(16, 2, 2, out);
        return;
      case 'u':
        AppendCode(16, 4, 4, out);
        return;
      case 'U':
        AppendCode(16, 8, 8, out);
        return;
      case 'N':
        Fail(at_ - 2, "named characters (\\N{...}) are not supported; use \\u");
        return;
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      --at_;
      AppendCode(8, 1, 3, out);
    } else {
      out->push_back('\\');
      out->push_back(c);
    }
  }

  void AppendCode(int base, size_t least, size_t most, std::string* out) {
    uint32_t code = 0;
    const char* begin = source_.data() + at_;
    const char* limit = begin + std::min(most, source_.size() - at_);
    const auto [end, error] = std::from_chars(begin, limit, code, base);
    if (error != std::errc() || static_cast<size_t>(end - begin) < least || code > 0x10FFFF ||
        (code >= 0xD800 && code < 0xE000)) {
      Fail(at_, "this escape sequence does not name a character");
      return;
    }
    AppendUtf8(code, out);
    at_ += static_cast<size_t>(end - begin);
  }

  void LexOperator() {
    static constexpr std::string_view kOperators[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view op : kOperators) {
      if (source_.compare(at_, op.size(), op) != 0) continue;
      if (!Balance(op[0])) return;
      Add(TokenKind::kOperator, at_).text = op;
      at_ += op.size();
      return;
    }
    Fail(at_,
         Cat("unexpected character '", source_.substr(at_, CodePointBytes(source_, at_)), "'"));
  }

  bool Balance(char c) {
    if (c == '(' || c == '[' || c == '{') {
      brackets_.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty() || brackets_.back() != c) {
        Fail(at_, Cat("unexpected '", std::string(1, c), "'"));
        return false;
      }
      brackets_.pop_back();
    }
    return true;
  }

  Token& Add(TokenKind kind, size_t at) {
    Advance(at);
    Token token;
    token.kind = kind;
    token.line = line_;
    token.column = static_cast<int>(at - line_begin_) + 1;
    tokens_.push_back(std::move(token));
    return tokens_.back();
  }
  void Add(TokenKind kind) { Add(kind, source_.size()); }

  // Positions only grow, so lines are counted once.
  void Advance(size_t at) {
    for (; counted_ < at; ++counted_) {
      if (source_[counted_] != '\n') continue;
      ++line_;
      line_begin_ = counted_ + 1;
    }
  }

  void Fail(size_t at, std::string_view message) {
    if (!status_.ok()) return;
    Advance(at);
    const int column = at >= line_begin_ ? static_cast<int>(at - line_begin_) + 1 : 1;
    status_ = SyntaxError(line_, column, message);
  }

  const std::string source_;
  size_t at_ = 0;
  bool line_starting_ = true;  // the last tag was followed by a newline
  std::string brackets_;       // closing brackets that are still due
  std::vector<Token> tokens_;
  absl::Status status_;
  size_t counted_ = 0, line_begin_ = 0;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

absl::Status SyntaxError(int line, int column, std::string_view message) {
  return absl::InvalidArgumentError(
      Cat("chat template, line ", line, ", column ", column, ": ", message));
}

}  // namespace finetuned::text::jinja
