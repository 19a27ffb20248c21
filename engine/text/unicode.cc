#include "engine/text/unicode.h"

#include <utf8proc.h>

#include <cctype>

namespace finetuned::text {
namespace {

// Length of the well-formed sequence at `at`, or 0; *bad is then the length of the ill-formed part.
size_t SequenceLength(std::string_view s, size_t at, size_t* bad) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(at);
  const size_t length = c < 0x80                 ? 1
                        : c >= 0xC2 && c <= 0xDF ? 2
                        : c >= 0xE0 && c <= 0xEF ? 3
                        : c >= 0xF0 && c <= 0xF4 ? 4
                                                 : 0;
  *bad = 1;
  if (length == 0) return 0;
  for (size_t k = 1; k < length; ++k) {
    *bad = k;
    if (at + k >= s.size()) return 0;
    unsigned char low = 0x80, high = 0xBF;
    if (k == 1) {
      if (c == 0xE0) low = 0xA0;
      if (c == 0xED) high = 0x9F;
      if (c == 0xF0) low = 0x90;
      if (c == 0xF4) high = 0x8F;
    }
    if (byte(at + k) < low || byte(at + k) > high) return 0;
  }
  return length;
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  for (size_t i = 0, bad = 0; i < text.size();) {
    const size_t length = SequenceLength(text, i, &bad);
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

CodePoint DecodeAt(std::string_view text, size_t at) {
  utf8proc_int32_t value = 0;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                  static_cast<utf8proc_ssize_t>(text.size() - at), &value);
  if (n <= 0) return {0xFFFD, 1};
  return {static_cast<uint32_t>(value), static_cast<size_t>(n)};
}

CodePoint DecodeBefore(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return DecodeAt(text, at);
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  utf8proc_uint8_t buffer[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), buffer);
  out->append(reinterpret_cast<char*>(buffer), static_cast<size_t>(n));
}

bool IsNumber(uint32_t c) {
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool IsWhitespace(uint32_t c) {
  if ((c >= 9 && c <= 13) || c == 0x85) return true;
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

bool IsPunctuation(uint32_t c) {
  if (c < 128) return std::ispunct(static_cast<int>(c)) != 0;
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool IsWordCharacter(uint32_t c) {
  const auto k = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_PC;
}

std::string LossyUtf8(std::string_view bytes) {
  std::string out;
  for (size_t i = 0, bad = 0; i < bytes.size();) {
    const size_t length = SequenceLength(bytes, i, &bad);
    if (length > 0) {
      out.append(bytes, i, length);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += length > 0 ? length : bad;
  }
  return out;
}

}  // namespace finetuned::text
