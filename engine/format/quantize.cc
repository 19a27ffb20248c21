// Formulas: quantize_row_*_ref of llama.cpp's ggml-quants.c, as in gguf.quants.
#include "engine/format/quantize.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/format/quantize_block.h"

namespace finetuned::format {
namespace {

void EncodeF32(const float* in, uint8_t* out) { std::memcpy(out, in, sizeof(float)); }
void EncodeF16(const float* in, uint8_t* out) { Store16(FloatToHalf(*in), out); }
void EncodeBF16(const float* in, uint8_t* out) { Store16(FloatToBFloat16(*in), out); }

float Inverse(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

// The number of greatest magnitude, with its sign; the first of several.
float Extreme(const float* in) {
  float extreme = 0.0f;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(in[i]) > std::fabs(extreme)) extreme = in[i];
  }
  return extreme;
}

void EncodeQ8_0(const float* in, uint8_t* out) {
  const float d = std::fabs(Extreme(in)) / 127.0f, inverse = Inverse(d);
  Store16(FloatToHalf(d), out);
  for (int i = 0; i < 32; ++i) {
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(in[i] * inverse)));
  }
}

void StoreNibbles(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = (codes[i] & 15) | static_cast<uint8_t>(codes[i + 16] << 4);
}

void StoreFifthBits(const uint8_t* codes, uint8_t* out) {
  uint32_t high = 0;
  for (int i = 0; i < 32; ++i) high |= static_cast<uint32_t>(codes[i] >> 4) << i;
  std::memcpy(out, &high, sizeof(high));
}

// Codes of a scale alone: the extreme becomes -levels / 2. Returns the scale.
float CodesAroundZero(const float* in, int levels, uint8_t* codes) {
  const float half = static_cast<float>(levels / 2);
  const float d = Extreme(in) / -half, inverse = Inverse(d);
  for (int i = 0; i < 32; ++i) {
    const int code = static_cast<int>(in[i] * inverse + (half + 0.5f));
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0, levels - 1));
  }
  return d;
}

struct ScaleAndMin {
  float d, min;
};

// Codes of a scale and a minimum.
ScaleAndMin CodesAboveMin(const float* in, int levels, uint8_t* codes) {
  const auto [min, max] = std::minmax_element(in, in + 32);
  const float d = (*max - *min) / static_cast<float>(levels - 1), inverse = Inverse(d);
  for (int i = 0; i < 32; ++i) {
    const int code = static_cast<int>((in[i] - *min) * inverse + 0.5f);
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0, levels - 1));
  }
  return {d, *min};
}

void EncodeQ4_0(const float* in, uint8_t* out) {
  uint8_t codes[32];
  Store16(FloatToHalf(CodesAroundZero(in, 16, codes)), out);
  StoreNibbles(codes, out + 2);
}

void EncodeQ5_0(const float* in, uint8_t* out) {
  uint8_t codes[32];
  Store16(FloatToHalf(CodesAroundZero(in, 32, codes)), out);
  StoreFifthBits(codes, out + 2);
  StoreNibbles(codes, out + 6);
}

void EncodeQ4_1(const float* in, uint8_t* out) {
  uint8_t codes[32];
  const ScaleAndMin s = CodesAboveMin(in, 16, codes);
  Store16(FloatToHalf(s.d), out);
  Store16(FloatToHalf(s.min), out + 2);
  StoreNibbles(codes, out + 4);
}

void EncodeQ5_1(const float* in, uint8_t* out) {
  uint8_t codes[32];
  const ScaleAndMin s = CodesAboveMin(in, 32, codes);
  Store16(FloatToHalf(s.d), out);
  Store16(FloatToHalf(s.min), out + 2);
  StoreFifthBits(codes, out + 4);
  StoreNibbles(codes, out + 8);
}

using EncodeBlock = void (*)(const float*, uint8_t*);

EncodeBlock EncoderOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return EncodeF32;
    case DType::kF16:
      return EncodeF16;
    case DType::kBF16:
      return EncodeBF16;
    case DType::kQ8_0:
      return EncodeQ8_0;
    case DType::kQ4_0:
      return EncodeQ4_0;
    case DType::kQ4_1:
      return EncodeQ4_1;
    case DType::kQ5_0:
      return EncodeQ5_0;
    case DType::kQ5_1:
      return EncodeQ5_1;
    case DType::kQ4_K:
      return EncodeQ4_K;
    case DType::kQ5_K:
      return EncodeQ5_K;
    case DType::kQ6_K:
      return EncodeQ6_K;
    default:
      return nullptr;
  }
}

}  // namespace

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (magnitude < 0x38800000) {                       // subnormal: a multiple of 2^-24, which the sum rounds to
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0x0fff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 64);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

bool IsEncodable(DType dtype) { return EncoderOf(dtype) != nullptr; }

absl::Status EncodeFromF32(DType dtype, std::span<const float> in, std::span<uint8_t> bytes) {
  const EncodeBlock encode = EncoderOf(dtype);
  if (encode == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("weights cannot be written as ", DTypeName(dtype)));
  }
  const BlockSize block = BlockOf(dtype);
  if (in.size() % block.elements != 0 || bytes.size() != in.size() / block.elements * block.bytes) {
    return absl::InvalidArgumentError(absl::StrCat("cannot encode ", in.size(), " numbers as ", bytes.size(),
                                                   " bytes of ", DTypeName(dtype)));
  }
  for (size_t i = 0; i < in.size(); ++i) {
    if (!std::isfinite(in[i])) {
      return absl::InvalidArgumentError(absl::StrCat("number ", i, " is ", in[i], ", expected a finite one"));
    }
  }
  uint8_t* out = bytes.data();
  for (size_t i = 0; i < in.size(); i += block.elements, out += block.bytes) encode(in.data() + i, out);
  return absl::OkStatus();
}

}  // namespace finetuned::format
