#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace finetuned::spec {

// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) as RFC 3720 defines it: what upload and
// download chunks carry. Crc32c("123456789") == 0xE3069283.
inline uint32_t Crc32c(std::string_view data) {
  static const auto kTable = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = (c >> 1) ^ ((c & 1) ? 0x82F63B78u : 0u);
      t[0][i] = c;
    }
    for (size_t s = 1; s < 8; ++s) {
      for (size_t i = 0; i < 256; ++i) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 0xFF];
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  const auto* p = reinterpret_cast<const unsigned char*>(data.data());
  size_t n = data.size();
  for (; n >= 8; n -= 8, p += 8) {  // eight table look-ups for eight bytes
    crc ^= static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
           static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
    crc = kTable[7][crc & 0xFF] ^ kTable[6][(crc >> 8) & 0xFF] ^ kTable[5][(crc >> 16) & 0xFF] ^
          kTable[4][crc >> 24] ^ kTable[3][p[4]] ^ kTable[2][p[5]] ^ kTable[1][p[6]] ^ kTable[0][p[7]];
  }
  for (; n > 0; --n, ++p) crc = (crc >> 8) ^ kTable[0][(crc ^ *p) & 0xFF];
  return ~crc;
}

}  // namespace finetuned::spec
