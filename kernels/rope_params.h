// Plain parameters of the rotary embedding. Legend: T tokens, H heads, E head size, R rotated elements.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct RopeParams {
  void* x;                  // [T, H, E], updated
  const int32_t* position;  // [T]
  const float* inv_freq;    // [R/2]
  int64_t T;
  int64_t H;
  int64_t E;
  int64_t R;
  int64_t row_stride;  // elements from token to token
  float sign;          // +1 or -1
  float magnitude;     // of cosine and sine
  bool interleaved;
};

void RopeCpu(const RopeParams& p, Dtype dtype);
void RopeCuda(const RopeParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
