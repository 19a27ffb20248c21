#include "engine/text/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>

namespace finetuned::text::jinja {
namespace {

constexpr char32_t kSharpS = 0xDF;

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

bool IsCased(char32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

bool IsUpper(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_LU;
}

char32_t Lower(char32_t code) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}

void AppendUpper(char32_t code, std::string* out) {
  if (code == kSharpS) {
    out->append("SS");
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))), out);
}

void AppendTitle(char32_t code, std::string* out) {
  if (code == kSharpS) {
    out->append("Ss");
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code))), out);
}

}  // namespace

std::optional<int64_t> ParseInteger(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> ParseDouble(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void StrBuilder::Mark(size_t begin, size_t end) {
  if (begin == end) return;
  if (!out_.user.empty() && out_.user.back().end == begin) {
    out_.user.back().end = end;
  } else {
    out_.user.push_back({begin, end});
  }
}

void StrBuilder::Append(std::string_view bytes, bool user) {
  const size_t begin = out_.bytes.size();
  out_.bytes.append(bytes);
  if (user) Mark(begin, out_.bytes.size());
}

void StrBuilder::AppendSlice(const Str& piece, size_t begin, size_t end) {
  const size_t at = out_.bytes.size();
  out_.bytes.append(piece.bytes, begin, end - begin);
  auto range = std::partition_point(piece.user.begin(), piece.user.end(),
                                    [begin](const ByteRange& r) { return r.end <= begin; });
  for (; range != piece.user.end() && range->begin < end; ++range) {
    Mark(at + std::max(range->begin, begin) - begin, at + std::min(range->end, end) - begin);
  }
}

Str Plain(std::string_view bytes) {
  Str out;
  out.bytes = bytes;
  return out;
}

Str Slice(const Str& text, size_t begin, size_t end) {
  StrBuilder builder;
  builder.AppendSlice(text, begin, end);
  Str out = builder.Take();
  out.markup = text.markup;
  return out;
}

Str Tainted(std::string bytes, const Str& like) {
  Str out;
  out.bytes = std::move(bytes);
  if (!like.user.empty() && !out.bytes.empty()) out.user.push_back({0, out.bytes.size()});
  return out;
}

bool ValidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) {
      ++at;
      continue;
    }
    utf8proc_int32_t code = 0;
    const auto used = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                       static_cast<utf8proc_ssize_t>(text.size() - at), &code);
    if (used <= 0) return false;
    at += static_cast<size_t>(used);
  }
  return true;
}

size_t CodePointBytes(std::string_view text, size_t at) {
  size_t end = at + 1;
  while (end < text.size() && IsContinuation(text[end])) ++end;
  return end - at;
}

char32_t DecodeAt(std::string_view text, size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return first;
  const size_t bytes = CodePointBytes(text, at);
  char32_t code = first & (0xFFu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    code = (code << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3F);
  }
  return code;
}

void AppendUtf8(char32_t code, std::string* out) {
  utf8proc_uint8_t buffer[4];
  const auto bytes = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), buffer);
  out->append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(bytes));
}

int64_t CountCodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return !IsContinuation(byte); });
}

size_t ByteOffset(std::string_view text, int64_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    at += CodePointBytes(text, at);
    --index;
  }
  return at;
}

bool IsSpace(char32_t code) {
  if (code <= 0x20) return code == 0x20 || (code >= 0x09 && code <= 0x0D) || code >= 0x1C;
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

ByteRange TrimSpace(std::string_view text, bool left, bool right) {
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end && IsSpace(DecodeAt(text, begin))) {
    begin += CodePointBytes(text, begin);
  }
  while (right && end > begin) {
    size_t last = end - 1;
    while (last > begin && IsContinuation(text[last])) --last;
    if (!IsSpace(DecodeAt(text, last))) break;
    end = last;
  }
  return {begin, end};
}

bool IsWord(char32_t code) {
  if (code < 0x80) {
    return (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') ||
           (code >= 'A' && code <= 'Z') || code == '_';
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
         (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool IsPrintable(char32_t code) {
  if (code < 0x7F) return code >= 0x20;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

Str MapCase(const Str& text, CaseMap map) {
  StrBuilder out;
  std::string mapped;
  bool after_cased = false;
  size_t range = 0;
  for (size_t at = 0; at < text.bytes.size();) {
    const char32_t code = DecodeAt(text.bytes, at);
    mapped.clear();
    if (map == CaseMap::kUpper || (map == CaseMap::kSwap && !IsUpper(code))) {
      AppendUpper(code, &mapped);
    } else if ((map == CaseMap::kCapitalize && at == 0) ||
               (map == CaseMap::kTitle && !after_cased)) {
      AppendTitle(code, &mapped);
    } else {
      AppendUtf8(Lower(code), &mapped);
    }
    after_cased = IsCased(code);
    while (range < text.user.size() && text.user[range].end <= at) ++range;
    out.Append(mapped, range < text.user.size() && text.user[range].begin <= at);
    at += CodePointBytes(text.bytes, at);
  }
  Str result = out.Take();
  result.markup = text.markup;
  return result;
}

Str EscapeHtml(const Str& text) {
  if (text.markup) return text;
  StrBuilder out;
  size_t done = 0;
  const auto flush = [&](size_t at, std::string_view entity) {
    out.AppendSlice(text, done, at);
    const Str replaced = Slice(text, at, at + 1);
    out.Append(entity, !replaced.all_template());
    done = at + 1;
  };
  for (size_t at = 0; at < text.bytes.size(); ++at) {
    switch (text.bytes[at]) {
      case '&':
        flush(at, "&amp;");
        break;
      case '<':
        flush(at, "&lt;");
        break;
      case '>':
        flush(at, "&gt;");
        break;
      case '\'':
        flush(at, "&#39;");
        break;
      case '"':
        flush(at, "&#34;");
        break;
      default:
        break;
    }
  }
  out.AppendSlice(text, done, text.bytes.size());
  Str result = out.Take();
  result.markup = true;
  return result;
}

}  // namespace finetuned::text::jinja
