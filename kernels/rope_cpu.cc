// Truth of the rotary embedding. Legend: T tokens, H heads, E head size.
#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "kernels/rope_params.h"

namespace finetuned::kernels {
namespace {

// Pair e is x[e * step] and x[e * step + apart].
template <typename R>
void RotateHead(R* x, const R* cosine, const R* sine, int64_t half, int64_t step, int64_t apart) {
#pragma omp simd
  for (int64_t e = 0; e < half; ++e) {
    const R a = x[e * step], b = x[e * step + apart];
    x[e * step] = a * cosine[e] - b * sine[e];
    x[e * step + apart] = b * cosine[e] + a * sine[e];
  }
}

template <typename R>
void Rope(const RopeParams& p) {
  const int64_t half = p.R / 2, step = p.interleaved ? 2 : 1, apart = p.interleaved ? 1 : half;
  at::parallel_for(0, p.T, 1 + 8192 / (p.H * p.E), [&](int64_t begin, int64_t end) {
    std::vector<R> cosine(half), sine(half);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t e = 0; e < half; ++e) {
        const float angle = static_cast<float>(p.position[t]) * p.inv_freq[e];
        cosine[e] = p.magnitude * std::cos(angle);
        sine[e] = p.sign * (p.magnitude * std::sin(angle));
      }
      R* row = static_cast<R*>(p.x) + t * p.row_stride;
      for (int64_t h = 0; h < p.H; ++h) {
        RotateHead(row + h * p.E, cosine.data(), sine.data(), half, step, apart);
      }
    }
  });
}

}  // namespace

void RopeCpu(const RopeParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Rope<double>(p) : Rope<float>(p);
}

}  // namespace finetuned::kernels
