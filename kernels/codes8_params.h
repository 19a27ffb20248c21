// Plain parameters of 8-bit codes. Legend as in codes8.h.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct QuantizeRowsParams {
  const void* x;   // [M, K] float32 or bfloat16
  int64_t stride;  // elements from row to row
  void* codes;     // [M, K]
  float* scale;    // [M]
  int64_t M, K;
  float limit;
};

struct Nf4ToCodesParams {
  const uint8_t* nf4;
  const uint8_t* absmax_q;  // null when not nested
  const float* absmax2;
  const float* absmax;      // null when nested
  const float* code_map;    // [16]
  const float* nested_map;
  float offset;
  const float* scale;       // [O], transposed [I]
  void* codes;              // [O, I], transposed [I, O]
  int64_t stride;           // of codes, elements from row to row
  int64_t O, I;
  bool transposed;
  float limit;
};

// y = sums * scale_m * scale_n
struct ScaleSumsParams {
  const int32_t* sums;  // [M, N]
  const float* scale_m;
  const float* scale_n;
  void* y;              // [M, N] float32 or bfloat16
  int64_t y_stride;     // elements from row to row
  int64_t M, N;
};

// fp8: codes are e4m3, otherwise int8.
void QuantizeRowsCpu(const QuantizeRowsParams& p, bool fp8);  // float32
void QuantizeRowsCuda(const QuantizeRowsParams& p, Dtype dtype, bool fp8, CudaStream stream);
void Nf4ToCodesCpu(const Nf4ToCodesParams& p, bool fp8);
void Nf4ToCodesCuda(const Nf4ToCodesParams& p, bool fp8, CudaStream stream);
void ScaleSumsCuda(const ScaleSumsParams& p, Dtype dtype, CudaStream stream);

// What values are multiplied by, as every implementation takes it: 0 for a row of zeros.
FT_HOST_DEVICE float Codes8Inverse(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

}  // namespace finetuned::kernels
