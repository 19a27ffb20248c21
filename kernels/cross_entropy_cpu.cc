// Truth of the cross entropy. Legend: C rows, V vocabulary size.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu_math.h"
#include "kernels/cross_entropy_params.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kBlock = 2048;  // elements summed in R before they enter a double

template <typename R>
R RowMax(const R* x, int64_t V) {
  R top = x[0];
#pragma omp simd reduction(max : top)
  for (int64_t v = 0; v < V; ++v) top = top < x[v] ? x[v] : top;
  return top;
}

// Sums over a row: e^(x - top), e^(x - top) * (x - top), x - top.
struct RowSums {
  double exp = 0;
  double exp_x = 0;
  double x = 0;
};

// With kStore, x becomes e^(x - top).
template <typename R, bool kStore>
RowSums SumRow(R* x, int64_t V, R top) {
  RowSums sums;
  for (int64_t begin = 0; begin < V; begin += kBlock) {
    const int64_t end = std::min(V, begin + kBlock);
    R sum = 0, sum_ex = 0, sum_x = 0;
#pragma omp simd reduction(+ : sum, sum_ex, sum_x)
    for (int64_t v = begin; v < end; ++v) {
      const R shifted = x[v] - top;
      const R e = Exp(shifted);
      sum += e;
      sum_ex += e > R(1e-30) ? e * shifted : R(0);  // -inf logits have no share
      sum_x += shifted;
      if constexpr (kStore) x[v] = e;
    }
    sums.exp += sum;
    sums.exp_x += sum_ex;
    sums.x += sum_x;
  }
  return sums;
}

template <typename R>
void WriteGradient(R* x, int64_t V, int32_t label, const RowSums& sums, double smoothing, R scale) {
  const R factor = static_cast<R>(scale / sums.exp);
  const R everywhere = static_cast<R>(smoothing / static_cast<double>(V) * scale);
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) x[v] = x[v] * factor - everywhere;
  x[label] -= static_cast<R>(1.0 - smoothing) * scale;
}

// x holds e^(x - top), of which the gradient of the entropy is added to what WriteGradient would write.
template <typename R>
void WriteEntropyGradient(R* x, int64_t V, int32_t label, const RowSums& sums, double smoothing, R scale, double entropy,
                          double d_entropy) {
  const double log_sum = std::log(sums.exp), everywhere = smoothing / static_cast<double>(V);
  for (int64_t v = 0; v < V; ++v) {
    const double e = x[v], p = e / sums.exp;
    const double of_entropy = e > 0 ? p * (std::log(e) - log_sum + entropy) : 0;  // -inf logits have no share
    x[v] = static_cast<R>((p - everywhere) * scale - d_entropy * of_entropy);
  }
  x[label] -= static_cast<R>(1.0 - smoothing) * scale;
}

// The gradient of capped logits becomes that of the logits before the cap.
template <typename R>
void ThroughCap(const R* capped, int64_t V, R cap, R* grad) {
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) grad[v] *= R(1) - (capped[v] / cap) * (capped[v] / cap);
}

template <typename R>
std::vector<R> Capped(const R* x, int64_t V, R cap) {
  std::vector<R> out(static_cast<size_t>(V));
  for (int64_t v = 0; v < V; ++v) out[static_cast<size_t>(v)] = cap * std::tanh(x[v] / cap);
  return out;
}

template <typename R>
void Row(const CrossEntropyParams& p, int64_t c) {
  R* const logits = static_cast<R*>(p.logits) + c * p.V;
  const int32_t label = p.labels[c];
  const bool counts = label >= 0;
  if (!counts && !p.entropy && !p.correct) {
    p.loss[c] = 0;
    if (p.write_grad) std::fill(logits, logits + p.V, R(0));
    return;
  }
  const R cap = static_cast<R>(p.softcap);
  std::vector<R> capped, work;
  if (cap > 0) capped = work = Capped(logits, p.V, cap);
  R* const x = cap > 0 ? work.data() : logits;
  const R top = RowMax(x, p.V);
  if (p.correct) p.correct[c] = counts && std::find(x, x + p.V, top) - x == label;
  const double at_label = counts ? x[label] - top : 0;
  const bool gradient = p.write_grad && counts;
  const RowSums sums = gradient ? SumRow<R, true>(x, p.V, top) : SumRow<R, false>(x, p.V, top);
  const double log_sum = std::log(sums.exp);
  const double nll = log_sum - at_label;
  const double uniform = log_sum - sums.x / static_cast<double>(p.V);
  const double s = p.label_smoothing;
  p.loss[c] = counts ? static_cast<float>(s > 0 ? (1 - s) * nll + s * uniform : nll) : 0.0f;
  const double entropy = log_sum - sums.exp_x / sums.exp;
  if (p.entropy) p.entropy[c] = static_cast<float>(entropy);
  if (!gradient) {
    if (p.write_grad) std::fill(logits, logits + p.V, R(0));
    return;
  }
  const R scale = static_cast<R>(p.scale[c * p.scale_stride]);
  if (p.d_entropy) {
    WriteEntropyGradient<R>(x, p.V, label, sums, s, scale, entropy, p.d_entropy[c]);
  } else {
    WriteGradient<R>(x, p.V, label, sums, s, scale);
  }
  if (cap > 0) {
    ThroughCap(capped.data(), p.V, cap, x);
    std::copy(x, x + p.V, logits);
  }
}

template <typename R>
void Rows(const CrossEntropyParams& p) {
  at::parallel_for(0, p.C, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) Row<R>(p, c);
  });
}

}  // namespace

void CrossEntropyCpu(const CrossEntropyParams& p, Dtype dtype) {
  dtype == Dtype::kFloat64 ? Rows<double>(p) : Rows<float>(p);
}

}  // namespace finetuned::kernels
