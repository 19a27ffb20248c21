// Truth of the paged cache and of attention over it. Legend: see paged_attention.h.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu_math.h"
#include "kernels/paged_attention_params.h"

namespace finetuned::kernels {
namespace {

template <typename R>
void Write(const WritePagedParams& p) {
  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t position = PagedPosition(p.index, t);
    for (int64_t h = 0; h < p.K; ++h) {
      const int64_t to = PagedOffset(p.index, t, position, h, p.K, p.E);
      const R* k = static_cast<const R*>(p.k) + t * p.k_stride + h * p.E;
      const R* v = static_cast<const R*>(p.v) + t * p.v_stride + h * p.E;
      std::copy(k, k + p.E, static_cast<R*>(p.k_cache) + to);
      std::copy(v, v + p.E, static_cast<R*>(p.v_cache) + to);
    }
  }
}

template <typename R>
R Dot(const R* a, const R* b, int64_t n) {
  R sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t e = 0; e < n; ++e) sum += a[e] * b[e];
  return sum;
}

template <typename R>
void AttendHead(const PagedAttentionParams& p, int64_t row, int64_t head, std::vector<R>* weights) {
  const int64_t tokens = PagedPosition(p.index, row) + 1, first = PagedFirst(p, tokens);
  const int64_t kv = head / (p.H / p.K);
  const R* q = static_cast<const R*>(p.q) + row * p.q_stride + head * p.E;
  R* out = static_cast<R*>(p.out) + row * p.out_stride + head * p.E;
  weights->resize(static_cast<size_t>(tokens));
  R* w = weights->data();
  const R cap = static_cast<R>(p.softcap);
  R top = -INFINITY;
  for (int64_t t = first; t < tokens; ++t) {
    const int64_t at = PagedOffset(p.index, row, t, kv, p.K, p.E);
    w[t] = static_cast<R>(p.scale) * Dot(q, static_cast<const R*>(p.k_cache) + at, p.E);
    if (cap > 0) w[t] = cap * std::tanh(w[t] / cap);
    top = std::max(top, w[t]);
  }
  R sum = 0;
  for (int64_t t = first; t < tokens; ++t) sum += w[t] = Exp(w[t] - top);
  std::fill(out, out + p.E, R(0));
  for (int64_t t = first; t < tokens; ++t) {
    const R share = w[t] / sum;
    const R* v = static_cast<const R*>(p.v_cache) + PagedOffset(p.index, row, t, kv, p.K, p.E);
#pragma omp simd
    for (int64_t e = 0; e < p.E; ++e) out[e] += share * v[e];
  }
}

template <typename R>
void Attend(const PagedAttentionParams& p) {
  at::parallel_for(0, p.B * p.H, 4, [&](int64_t begin, int64_t end) {
    std::vector<R> weights;
    for (int64_t i = begin; i < end; ++i) AttendHead<R>(p, i / p.H, i % p.H, &weights);
  });
}

}  // namespace

void WritePagedCpu(const WritePagedParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Write<double>(p) : Write<float>(p);
}

void PagedAttentionCpu(const PagedAttentionParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Attend<double>(p) : Attend<float>(p);
}

}  // namespace finetuned::kernels
