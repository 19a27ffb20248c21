// Plain parameters of the rotary embedding. Legend: T tokens, H heads, E head size.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct RopeParams {
  void* x;                  // [T, H, E], updated
  const int32_t* position;  // [T]
  const float* inv_freq;    // [E/2]
  int64_t T;
  int64_t H;
  int64_t E;
  int64_t row_stride;  // elements from token to token
  float sign;          // +1 or -1
};

void RopeCpu(const RopeParams& p, Dtype dtype);
void RopeCuda(const RopeParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
