// Block layouts: ggml-common.h of ggml, as read by gguf.quants. Each function decodes one block;
// products and sums are rounded one by one (the file is compiled without floating contraction).
#include "engine/format/dequantize.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace finetuned::format {
namespace {

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

uint32_t Load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float LoadHalf(const uint8_t* p) { return HalfToFloat(Load16(p)); }

void DecodeF64(const uint8_t* in, float* out) {
  double value;
  std::memcpy(&value, in, sizeof(value));
  *out = static_cast<float>(value);
}

void DecodeF32(const uint8_t* in, float* out) { std::memcpy(out, in, sizeof(float)); }
void DecodeF16(const uint8_t* in, float* out) { *out = LoadHalf(in); }
void DecodeBF16(const uint8_t* in, float* out) { *out = BFloat16ToFloat(Load16(in)); }

// d (f16), 32 x int8.
void DecodeQ8_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(in[2 + i])) * d;
}

// d (f16), 16 bytes: low nibbles are elements 0-15, high nibbles 16-31.
void DecodeQ4_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((in[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((in[2 + i] >> 4) - 8);
  }
}

// d, m (f16), nibbles as in Q4_0.
void DecodeQ4_1(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), m = LoadHalf(in + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(in[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(in[4 + i] >> 4) + m;
  }
}

// d (f16), fifth bits (u32, bit i is element i), nibbles as in Q4_0.
void DecodeQ5_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  const uint32_t high = Load32(in + 2);
  for (int i = 0; i < 16; ++i) {
    const int low = (in[6 + i] & 15) | static_cast<int>((high >> i) & 1) << 4;
    const int upper = (in[6 + i] >> 4) | static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = d * static_cast<float>(low - 16);
    out[i + 16] = d * static_cast<float>(upper - 16);
  }
}

// d, m (f16), fifth bits, nibbles.
void DecodeQ5_1(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), m = LoadHalf(in + 2);
  const uint32_t high = Load32(in + 4);
  for (int i = 0; i < 16; ++i) {
    const int low = (in[8 + i] & 15) | static_cast<int>((high >> i) & 1) << 4;
    const int upper = (in[8 + i] >> 4) | static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = d * static_cast<float>(low) + m;
    out[i + 16] = d * static_cast<float>(upper) + m;
  }
}

struct ScaleMin {
  int scale, min;
};

// Six-bit scale and minimum of sub-block j (0-7) of Q4_K and Q5_K, packed into 12 bytes: 0-3 hold
// scales 0-3, 4-7 minimums 0-3, 8-11 the low nibbles of 4-7; their top bits sit in bytes 0-7.
ScaleMin UnpackScaleMin(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | ((packed[j - 4] >> 2) & 48),
          (packed[j + 4] >> 4) | ((packed[j] >> 2) & 48)};
}

// d, dmin (f16), 12 bytes of scales, 128 bytes: 32 bytes carry two sub-blocks of 32, low nibble
// first.
void DecodeQ4_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), dmin = LoadHalf(in + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = UnpackScaleMin(in + 4, j);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    const uint8_t* q = in + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      out[j * 32 + i] = scale * static_cast<float>((q[i] >> (j % 2 * 4)) & 15) - min;
    }
  }
}

// As Q4_K with 32 bytes before the nibbles: bit j of byte i is the fifth bit of element i of
// sub-block j.
void DecodeQ5_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), dmin = LoadHalf(in + 2);
  const uint8_t* high = in + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = UnpackScaleMin(in + 4, j);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    const uint8_t* q = in + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = ((q[i] >> (j % 2 * 4)) & 15) | ((high[i] >> j) & 1) << 4;
      out[j * 32 + i] = scale * static_cast<float>(code) - min;
    }
  }
}

// 128 bytes of nibbles, 64 bytes of upper bit pairs, 16 x int8 scales, d (f16). Each half of 128
// elements: sub-block k (0-3) of 32 takes nibble k/2 of bytes 32*(k%2).., bit pair k of its 32
// bytes.
void DecodeQ6_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in + 208);
  const uint8_t* scales = in + 192;
  for (int j = 0; j < 8; ++j) {
    const int half = j / 4, k = j % 4;
    const uint8_t* low = in + half * 64 + k % 2 * 32;
    const uint8_t* high = in + 128 + half * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = ((low[i] >> (k / 2 * 4)) & 15) | ((high[i] >> (2 * k)) & 3) << 4;
      const float scale = d * static_cast<float>(static_cast<int8_t>(scales[j * 2 + i / 16]));
      out[j * 32 + i] = scale * static_cast<float>(code - 32);
    }
  }
}

template <void (*DecodeBlock)(const uint8_t*, float*)>
void DecodeAll(DType dtype, std::span<const uint8_t> bytes, std::span<float> out) {
  const BlockSize block = BlockOf(dtype);
  const uint8_t* in = bytes.data();
  for (size_t i = 0; i < out.size(); i += block.elements, in += block.bytes) {
    DecodeBlock(in, out.data() + i);
  }
}

}  // namespace

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  if ((bits & 0x7c00) == 0x7c00) return std::bit_cast<float>(sign | magnitude | 0x7f800000);
  // Read with the float's exponent bias the value is 2^112 too small; subnormals come out right
  // too.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

absl::Status DecodeToF32(DType dtype, std::span<const uint8_t> bytes, std::span<float> out) {
  const BlockSize block = BlockOf(dtype);
  if (out.size() % block.elements != 0 ||
      bytes.size() / block.bytes != out.size() / block.elements ||
      bytes.size() % block.bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot decode ", bytes.size(), " bytes of ",
                                                   DTypeName(dtype), " into ", out.size(),
                                                   " numbers"));
  }
  switch (dtype) {
    case DType::kF64:
      DecodeAll<DecodeF64>(dtype, bytes, out);
      break;
    case DType::kF32:
      DecodeAll<DecodeF32>(dtype, bytes, out);
      break;
    case DType::kF16:
      DecodeAll<DecodeF16>(dtype, bytes, out);
      break;
    case DType::kBF16:
      DecodeAll<DecodeBF16>(dtype, bytes, out);
      break;
    case DType::kQ4_0:
      DecodeAll<DecodeQ4_0>(dtype, bytes, out);
      break;
    case DType::kQ4_1:
      DecodeAll<DecodeQ4_1>(dtype, bytes, out);
      break;
    case DType::kQ5_0:
      DecodeAll<DecodeQ5_0>(dtype, bytes, out);
      break;
    case DType::kQ5_1:
      DecodeAll<DecodeQ5_1>(dtype, bytes, out);
      break;
    case DType::kQ8_0:
      DecodeAll<DecodeQ8_0>(dtype, bytes, out);
      break;
    case DType::kQ4_K:
      DecodeAll<DecodeQ4_K>(dtype, bytes, out);
      break;
    case DType::kQ5_K:
      DecodeAll<DecodeQ5_K>(dtype, bytes, out);
      break;
    case DType::kQ6_K:
      DecodeAll<DecodeQ6_K>(dtype, bytes, out);
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat(DTypeName(dtype), " numbers are not weights"));
  }
  return absl::OkStatus();
}

}  // namespace finetuned::format
