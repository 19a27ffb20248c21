// Truth of the RMS norm. Legend: T tokens, D hidden size.
#include <ATen/Parallel.h>

#include <cmath>

#include "kernels/rms_norm_params.h"

namespace finetuned::kernels {
namespace {

int64_t RowsPerTask(int64_t D) { return 1 + 32768 / D; }

template <typename R>
void ForwardRow(const R* x, const R* delta, R* added, const R* w, R* y, R* rstd, int64_t D,
                double eps) {
  R sum = 0;
  if (delta) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) added[d] = x[d] + delta[d];
    x = added;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < D; ++d) sum += x[d] * x[d];
  const R r = R(1) / std::sqrt(sum / R(D) + R(eps));
  *rstd = r;
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) y[d] = w[d] * (x[d] * r);
}

// With xhat = x * rstd and g = dy * w: dx = rstd * (g - xhat * mean(g * xhat)).
template <typename R>
void BackwardRow(const R* dy, const R* x, const R* w, R rstd, R* dx, int64_t D, bool accumulate) {
  R dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t d = 0; d < D; ++d) dot += dy[d] * w[d] * x[d];
  const R c = dot * rstd * rstd / R(D);
  if (accumulate) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) dx[d] += rstd * (dy[d] * w[d] - x[d] * c);
  } else {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) dx[d] = rstd * (dy[d] * w[d] - x[d] * c);
  }
}

template <typename R>
void Forward(const RmsNormForwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.D), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const R* delta = p.delta ? static_cast<const R*>(p.delta) + t * p.D : nullptr;
      R* added = p.delta ? static_cast<R*>(p.sum) + t * p.D : nullptr;
      ForwardRow(static_cast<const R*>(p.x) + t * p.D, delta, added, static_cast<const R*>(p.w),
                 static_cast<R*>(p.y) + t * p.y_stride, static_cast<R*>(p.rstd) + t, p.D, p.eps);
    }
  });
}

template <typename R>
void Backward(const RmsNormBackwardParams& p) {
  at::parallel_for(0, p.T, RowsPerTask(p.D), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      BackwardRow(static_cast<const R*>(p.dy) + t * p.dy_stride, static_cast<const R*>(p.x) + t * p.D,
                  static_cast<const R*>(p.w), static_cast<const R*>(p.rstd)[t],
                  static_cast<R*>(p.dx) + t * p.dx_stride, p.D, p.accumulate);
    }
  });
}

}  // namespace

void RmsNormForwardCpu(const RmsNormForwardParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Forward<double>(p) : Forward<float>(p);
}

void RmsNormBackwardCpu(const RmsNormBackwardParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Backward<double>(p) : Backward<float>(p);
}

}  // namespace finetuned::kernels
