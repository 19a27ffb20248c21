#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

// UTF-8 and character classes, over utf8proc.
namespace finetuned::text {

// Offset of the first byte that is not part of valid UTF-8; npos when all is well.
size_t FindInvalidUtf8(std::string_view text);

// Code point at byte `at` of valid UTF-8 and its length in bytes.
struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 1;
};
CodePoint DecodeAt(std::string_view text, size_t at);
// Code point that ends right before byte `end`. REQUIRES: end > 0.
CodePoint DecodeBefore(std::string_view text, size_t end);
void AppendUtf8(uint32_t code_point, std::string* out);

bool IsNumber(uint32_t c);       // categories Nd, Nl, No
bool IsWhitespace(uint32_t c);   // White_Space property
bool IsPunctuation(uint32_t c);  // ASCII punctuation and categories P*
bool IsWordCharacter(uint32_t c);  // letters, marks, digits, connector punctuation

// Valid UTF-8 as it is; each maximal ill-formed part becomes one U+FFFD.
std::string LossyUtf8(std::string_view bytes);

}  // namespace finetuned::text
