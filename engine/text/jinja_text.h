#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace finetuned::text::jinja {

// Joins strings and integers. (Debian's absl::StrCat does not take std::string_view.)
template <typename... Parts>
void CatTo(std::string* out, const Parts&... parts) {
  const auto append = [out](const auto& part) {
    if constexpr (std::integral<std::decay_t<decltype(part)>>) {
      out->append(std::to_string(part));
    } else {
      out->append(std::string_view(part));
    }
  };
  (append(parts), ...);
}
template <typename... Parts>
std::string Cat(const Parts&... parts) {
  std::string out;
  CatTo(&out, parts...);
  return out;
}

// The whole text as a decimal number; empty when it is none or does not fit.
std::optional<int64_t> ParseInteger(std::string_view text);
std::optional<double> ParseDouble(std::string_view text);  // also inf and nan

// A UTF-8 string that knows which of its bytes came from user data (messages, tools, documents,
// extra variables). All other bytes were written by the template.
struct Str {
  std::string bytes;
  std::vector<ByteRange> user;  // sorted, disjoint, not empty, neighbours merged
  bool markup = false;          // result of the safe or escape filter: + escapes the other side

  bool all_template() const { return user.empty(); }
};

// Builds a Str piece by piece; ranges of neighbouring pieces are merged.
class StrBuilder {
 public:
  void Append(std::string_view bytes, bool user = false);
  void Append(const Str& piece) { AppendSlice(piece, 0, piece.bytes.size()); }
  void AppendSlice(const Str& piece, size_t begin, size_t end);
  size_t size() const { return out_.bytes.size(); }
  const Str& str() const { return out_; }
  Str Take() { return std::move(out_); }

 private:
  void Mark(size_t begin, size_t end);

  Str out_;
};

Str Plain(std::string_view bytes);
Str Slice(const Str& text, size_t begin, size_t end);  // keeps markup
// Every byte counts as user data when any byte of `like` does.
Str Tainted(std::string bytes, const Str& like);

// True for well-formed UTF-8 (no surrogates, no overlong forms).
bool ValidUtf8(std::string_view text);
// Length in bytes of the code point that starts at text[at]; text must be valid UTF-8.
size_t CodePointBytes(std::string_view text, size_t at);
char32_t DecodeAt(std::string_view text, size_t at);
void AppendUtf8(char32_t code, std::string* out);
int64_t CountCodePoints(std::string_view text);
// Byte offset of the code point with this index; the size of the text when index is past its end.
size_t ByteOffset(std::string_view text, int64_t index);

// White space as Python's str.isspace and the regular expression \s see it.
bool IsSpace(char32_t code);
// [begin, end) without leading and trailing white space.
ByteRange TrimSpace(std::string_view text, bool left = true, bool right = true);
// Letters, digits and underscore, as \w.
bool IsWord(char32_t code);
bool IsPrintable(char32_t code);  // str.isprintable

enum class CaseMap { kUpper, kLower, kCapitalize, kTitle, kSwap };
Str MapCase(const Str& text, CaseMap map);

// & < > ' " replaced by entities; the result is markup. Markup is returned unchanged.
Str EscapeHtml(const Str& text);

}  // namespace finetuned::text::jinja
