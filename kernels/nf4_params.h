// Plain parameters of the 4-bit kernels. n weights in B = ceil(n / 64) blocks.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

// The 16 values of NormalFloat4, ascending; entry c belongs to code c.
inline constexpr float kNf4Values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// The 16 values of bitsandbytes' FP4; entry c belongs to code c. The highest bit is the sign.
inline constexpr float kFp4Values[16] = {
    0.0f,  0.005208333333f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    0.0f, -0.005208333333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f,
};

// Values in ascending order: middles between neighbours, and the code of each place. The place of x is the number of
// middles below x.
struct FourBitTable {
  float middles[15];
  uint8_t codes[16];
};
constexpr FourBitTable MakeFourBitTable(const float (&values)[16]) {
  FourBitTable t = {};
  for (int i = 0; i < 16; ++i) t.codes[i] = static_cast<uint8_t>(i);
  // Stable, so that of equal values (the two zeros of FP4) the first code comes first.
  for (int i = 1; i < 16; ++i) {
    for (int j = i; j > 0 && values[t.codes[j]] < values[t.codes[j - 1]]; --j) {
      const uint8_t code = t.codes[j];
      t.codes[j] = t.codes[j - 1];
      t.codes[j - 1] = code;
    }
  }
  for (int i = 0; i < 15; ++i) t.middles[i] = (values[t.codes[i]] + values[t.codes[i + 1]]) / 2;
  return t;
}

inline constexpr float kNf4SmallestAbsmax = 1e-38f;  // floor of the divisor, as bitsandbytes

struct Nf4QuantizeParams {
  const void* w;   // [n] float32, float16 or bfloat16
  uint8_t* codes;  // [(n+1)/2]
  float* absmax;   // [B]
  int64_t n;
  FourBitTable table;
};

// The second quantization, of absmax - offset in blocks of 256.
struct Nf4NestParams {
  const float* absmax;      // [B]
  const float* nested_map;  // [256]
  uint8_t* absmax_q;        // [B]
  float* absmax2;           // [ceil(B/256)]
  int64_t B;
  float offset;
};

struct Nf4DequantizeParams {
  const uint8_t* codes;
  const uint8_t* absmax_q;  // null when not nested
  const float* absmax2;
  const float* absmax;    // null when nested
  const float* code_map;  // [16]
  const float* nested_map;
  void* out;           // [n / columns, columns] float32 or bfloat16, rows row_stride apart
  int64_t columns;
  int64_t row_stride;
  int64_t n;
  float offset;
};

void Nf4QuantizeCpu(const Nf4QuantizeParams& p, Dtype dtype);
void Nf4NestCpu(const Nf4NestParams& p);
void Nf4DequantizeCpu(const Nf4DequantizeParams& p, Dtype dtype);
void Nf4QuantizeCuda(const Nf4QuantizeParams& p, Dtype dtype, CudaStream stream);
void Nf4NestCuda(const Nf4NestParams& p, CudaStream stream);
void Nf4DequantizeCuda(const Nf4DequantizeParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
