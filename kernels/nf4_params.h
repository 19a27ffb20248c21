// Plain parameters of the NF4 kernels. n weights in B = ceil(n / 64) blocks.
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

// Middles between neighbouring values; the code of x is the number of middles below x.
struct Nf4Middles {
  float v[15];
};
constexpr Nf4Middles MakeNf4Middles() {
  Nf4Middles m = {};
  for (int i = 0; i < 15; ++i) m.v[i] = (kNf4Values[i] + kNf4Values[i + 1]) / 2;
  return m;
}

inline constexpr float kNf4SmallestAbsmax = 1e-38f;  // floor of the divisor, as bitsandbytes

struct Nf4QuantizeParams {
  const void* w;   // [n] float32, float16 or bfloat16
  uint8_t* codes;  // [(n+1)/2]
  float* absmax;   // [B]
  int64_t n;
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
