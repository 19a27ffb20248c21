// Plain parameters of dropout.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct DropoutParams {
  const void* x;  // [n]
  void* y;        // [n], may be x
  int64_t n;
  uint64_t seed;
  uint64_t offset;
  uint64_t first_group;  // Philox counter of the first four elements
  uint32_t threshold;  // a word below it drops the element
  float scale;         // 1 / (1 - p)
};

void DropoutCpu(const DropoutParams& p, Dtype dtype);  // float32, bfloat16
void DropoutCuda(const DropoutParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
