// Plain parameters of the gradient norm.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct NormTensor {
  const float* g;
  int64_t n;
};

inline constexpr int64_t kNormElements = 8192;  // per partial sum of squares

struct NormOutputs {
  float* norm;   // [1]
  float* scale;  // [1]
  float* skip;   // [1]
  double max_norm;
};

int64_t NormPartials(const std::vector<NormTensor>& tensors);
void GradNormCpu(const std::vector<NormTensor>& tensors, const NormOutputs& out);
// partials: float32 [NormPartials] of scratch on the device.
void GradNormCuda(const std::vector<NormTensor>& tensors, float* partials, const NormOutputs& out,
                  CudaStream stream);

}  // namespace finetuned::kernels
