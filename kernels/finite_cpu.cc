// Truth of the gradient norm.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "kernels/finite_params.h"

namespace finetuned::kernels {
namespace {

double SumOfSquares(const float* g, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  return sum;
}

}  // namespace

void GradNormCpu(const std::vector<NormTensor>& tensors, const NormOutputs& out) {
  double total = 0;
  for (const NormTensor& t : tensors) {
    const int64_t parts = (t.n + kNormElements - 1) / kNormElements;
    std::vector<double> partials(parts);
    at::parallel_for(0, parts, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kNormElements;
        partials[i] = SumOfSquares(t.g + first, std::min(kNormElements, t.n - first));
      }
    });
    for (double partial : partials) total += partial;
  }
  const float norm = static_cast<float>(std::sqrt(total));
  const float limit = static_cast<float>(out.max_norm);
  *out.norm = norm;
  *out.scale = limit > 0 ? std::min(1.0f, limit / (norm + 1e-6f)) : 1.0f;
  *out.skip = std::isfinite(norm) ? 0.0f : 1.0f;
}

}  // namespace finetuned::kernels
