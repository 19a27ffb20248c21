#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/format/quantize.h"

// Blocks of one encoding each; layouts as in dequantize.cc. Compiled without floating contraction.
namespace finetuned::format {

inline void Store16(uint16_t value, uint8_t* p) { std::memcpy(p, &value, sizeof(value)); }

// x to the nearest integer, ties to even. |x| < 2^22.
inline int NearestInt(float x) {
  return (std::bit_cast<int32_t>(x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

// 256 numbers each.
void EncodeQ4_K(const float* in, uint8_t* out);
void EncodeQ5_K(const float* in, uint8_t* out);
void EncodeQ6_K(const float* in, uint8_t* out);

}  // namespace finetuned::format
