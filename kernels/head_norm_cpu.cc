// Truth of the norms of heads. Legend: T tokens, H heads, E head size.
#include <ATen/Parallel.h>

#include <cmath>

#include "kernels/head_norm_params.h"

namespace finetuned::kernels {
namespace {

template <typename R>
struct Stats {
  R mean, rstd;
};

template <typename R>
Stats<R> StatsOf(const R* x, int64_t E, bool center, double eps) {
  R sum = 0, squares = 0;
  if (center) {
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; ++e) sum += x[e];
  }
  const R mean = sum / static_cast<R>(E);
#pragma omp simd reduction(+ : squares)
  for (int64_t e = 0; e < E; ++e) squares += (x[e] - mean) * (x[e] - mean);
  return {mean, R(1) / std::sqrt(squares / static_cast<R>(E) + static_cast<R>(eps))};
}

// Calls body(x, w, dy, out) for every head of every token.
template <typename R, typename Body>
void ForEachHead(const HeadNormParams& p, const Body& body) {
  at::parallel_for(0, p.T * p.H, 1 + 32768 / p.E, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / p.H, h = i % p.H;
      const R* dy = p.dy ? static_cast<const R*>(p.dy) + t * p.dy_stride + h * p.E : nullptr;
      body(static_cast<const R*>(p.x) + t * p.x_stride + h * p.E, static_cast<const R*>(p.w) + h * p.w_stride, dy,
           static_cast<R*>(p.out) + t * p.out_stride + h * p.E);
    }
  });
}

template <typename R>
void Forward(const HeadNormParams& p) {
  ForEachHead<R>(p, [&](const R* x, const R* w, const R*, R* y) {
    const Stats<R> s = StatsOf(x, p.E, p.center, p.eps);
#pragma omp simd
    for (int64_t e = 0; e < p.E; ++e) y[e] = w[e] * ((x[e] - s.mean) * s.rstd);
  });
}

// With n = (x - m) * rstd and g = dy * w: dx = rstd * (g - n * mean(g * n)), with center minus rstd * mean(g).
template <typename R>
void Backward(const HeadNormParams& p) {
  ForEachHead<R>(p, [&](const R* x, const R* w, const R* dy, R* dx) {
    const Stats<R> s = StatsOf(x, p.E, p.center, p.eps);
    R sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t e = 0; e < p.E; ++e) {
      sum += dy[e] * w[e];
      dot += dy[e] * w[e] * ((x[e] - s.mean) * s.rstd);
    }
    const R mean = p.center ? sum / static_cast<R>(p.E) : R(0), share = dot / static_cast<R>(p.E);
#pragma omp simd
    for (int64_t e = 0; e < p.E; ++e) {
      const R g = s.rstd * (dy[e] * w[e] - mean - (x[e] - s.mean) * s.rstd * share);
      dx[e] = p.accumulate ? dx[e] + g : g;
    }
  });
}

}  // namespace

void HeadNormForwardCpu(const HeadNormParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Forward<double>(p) : Forward<float>(p);
}

void HeadNormBackwardCpu(const HeadNormParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Backward<double>(p) : Backward<float>(p);
}

}  // namespace finetuned::kernels
