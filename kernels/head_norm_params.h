// Plain parameters of the norms of heads. Legend: T tokens, H heads, E head size.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct HeadNormParams {
  const void* x;   // [T, H, E]
  const void* w;   // [E] or [H, E]
  const void* dy;  // [T, H, E]; backward
  void* out;       // [T, H, E]: y, or dx
  int64_t x_stride, dy_stride, out_stride;  // elements from token to token
  int64_t w_stride;                         // from head to head: 0 or E
  int64_t T, H, E;
  double eps;
  bool center;
  bool accumulate;    // backward
  bool w_is_float32;  // beside a bfloat16 x
};

void HeadNormForwardCpu(const HeadNormParams& p, Dtype dtype);
void HeadNormBackwardCpu(const HeadNormParams& p, Dtype dtype);
void HeadNormForwardCuda(const HeadNormParams& p, Dtype dtype, CudaStream stream);
void HeadNormBackwardCuda(const HeadNormParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
