// Truth of the packed causal attention. Work is cut into (document, head) items; an item walks its
// rows in blocks of kRows, so that scores never exceed [kRows, L], and leaves out the key columns
// above the diagonal block and before the window of its first row. Legend: T tokens, H query heads, K key/value heads,
// E head size, L queries of a document, R rows of a block.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "kernels/cpu_math.h"
#include "kernels/varlen_attention_internal.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kRows = 128;

// Rows [begin, begin + count) of one head of a [T, heads, E] tensor as a matrix.
at::Tensor HeadRows(const at::Tensor& x_THE, int64_t head, int64_t begin, int64_t count) {
  return x_THE.as_strided(
      {count, x_THE.size(2)}, {x_THE.stride(0), 1},
      x_THE.storage_offset() + begin * x_THE.stride(0) + head * x_THE.stride(1));
}

// Calls body(document, head) for all pairs: longest documents first, each item to the next free
// thread. Items write disjoint memory, so the result does not depend on who takes what.
template <typename Body>
void ForEachItem(const std::vector<int32_t>& cu, int64_t heads, const Body& body) {
  const int64_t documents = static_cast<int64_t>(cu.size()) - 1;
  std::vector<int64_t> order(documents);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return cu[a + 1] - cu[a] > cu[b + 1] - cu[b]; });
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    c10::InferenceMode no_autograd;
    for (int64_t i = next++; i < documents * heads; i = next++) {
      body(order[i / heads], i % heads);
    }
  });
}

// A document: queries [start, start + L), keys from key_start on, `before` of them before the first query's own.
struct Document {
  int64_t start, L, key_start, before;
  Document(const VarlenAttentionInputs& in, int64_t n)
      : start(in.cu_seqlens[n]),
        L(in.cu_seqlens[n + 1] - start),
        key_start(in.cu_seqlens_k[n]),
        before(in.cu_seqlens_k[n + 1] - key_start - L) {}
};

// The keys of a block of rows: [low, low + columns) of the document. Row r of scores [R, columns] may see
// [First(r), Last(r)) of them.
struct Visible {
  int64_t position, low, columns;  // position: of the first row among the keys
  const ScoreOptions& scores;

  Visible(const ScoreOptions& options, int64_t first_position, int64_t rows)
      : position(first_position),
        low(options.First(first_position)),
        columns(first_position + rows - low),
        scores(options) {}
  int64_t First(int64_t r) const { return scores.First(position + r) - low; }
  int64_t Last(int64_t r) const { return position + r + 1 - low; }
};

template <typename S>
void HideBut(S* x, int64_t begin, int64_t end, int64_t columns) {
  std::fill(x, x + begin, S(0));
  std::fill(x + end, x + columns, S(0));
}

// x[j] = cap * tanh(scale * x[j] / cap).
template <typename S>
void CapScores(S* x, int64_t begin, int64_t end, S scale, S cap) {
  for (int64_t j = begin; j < end; ++j) x[j] = cap * std::tanh(scale * x[j] / cap);
}

// Makes the visible [begin, end) of a row of products probabilities, returns their log-sum-exp.
template <typename S>
S SoftmaxRow(S* x, int64_t begin, int64_t end, int64_t columns, S scale) {
  S top = x[begin];
#pragma omp simd reduction(max : top)
  for (int64_t j = begin; j < end; ++j) top = top < x[j] ? x[j] : top;
  S sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    x[j] = Exp(scale * (x[j] - top));
    sum += x[j];
  }
  const S inverse = S(1) / sum;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) x[j] *= inverse;
  HideBut(x, begin, end, columns);
  return scale * top + std::log(sum);
}

template <typename S>
void Forward(const VarlenAttentionInputs& in, at::Tensor& out_THE, at::Tensor& lse_HT) {
  const int64_t T = in.q_THE.size(0), H = in.q_THE.size(1);
  const int64_t group = H / in.k_TKE.size(1);
  const S scale = static_cast<S>(in.scores.scale), cap = static_cast<S>(in.scores.softcap);
  ForEachItem(in.cu_seqlens, H, [&](int64_t document, int64_t h) {
    const auto [start, L, key_start, before] = Document(in, document);
    S* lse = lse_HT.data_ptr<S>() + h * T + start;
    for (int64_t first = 0; first < L; first += kRows) {
      const int64_t rows = std::min(kRows, L - first);
      const Visible keys(in.scores, before + first, rows);
      const at::Tensor k = HeadRows(in.k_TKE, h / group, key_start + keys.low, keys.columns);
      const at::Tensor v = HeadRows(in.v_TKE, h / group, key_start + keys.low, keys.columns);
      at::Tensor scores = at::mm(HeadRows(in.q_THE, h, start + first, rows), k.t());
      for (int64_t r = 0; r < rows; ++r) {
        S* x = scores.data_ptr<S>() + r * keys.columns;
        const int64_t begin = keys.First(r), end = keys.Last(r);
        if (cap > 0) CapScores(x, begin, end, scale, cap);
        lse[first + r] = SoftmaxRow(x, begin, end, keys.columns, cap > 0 ? S(1) : scale);
      }
      at::Tensor out = HeadRows(out_THE, h, start + first, rows);
      at::mm_out(out, scores, v);
    }
  });
}

// Row r: p, products of q and k, becomes the probabilities, dp their gradient and then that of the products.
template <typename S>
void BackwardRow(S* p, S* dp, int64_t begin, int64_t end, int64_t columns, const ScoreOptions& options, S lse, S delta) {
  const S scale = static_cast<S>(options.scale), cap = static_cast<S>(options.softcap);
  if (cap > 0) {
    CapScores(p, begin, end, scale, cap);
    for (int64_t j = begin; j < end; ++j) {
      const S slope = scale * (S(1) - (p[j] / cap) * (p[j] / cap));
      p[j] = Exp(p[j] - lse);
      dp[j] = p[j] * (dp[j] - delta) * slope;
    }
  } else {
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      p[j] = Exp(scale * p[j] - lse);
      dp[j] = p[j] * (dp[j] - delta) * scale;
    }
  }
  HideBut(p, begin, end, columns);
  HideBut(dp, begin, end, columns);
}

template <typename S>
const S* HeadRow(const at::Tensor& x_THE, int64_t head, int64_t t) {
  return x_THE.const_data_ptr<S>() + t * x_THE.stride(0) + head * x_THE.stride(1);
}

template <typename S>
S Dot(const S* a, const S* b, int64_t n) {
  S sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename S>
void Backward(const VarlenAttentionInputs& in, const at::Tensor& dout_THE,
              const at::Tensor& out_THE, const at::Tensor& lse_HT, at::Tensor& dq_THE,
              at::Tensor& dk_TKE, at::Tensor& dv_TKE) {
  const int64_t T = in.q_THE.size(0), H = in.q_THE.size(1), K = in.k_TKE.size(1);
  const int64_t E = in.q_THE.size(2), group = H / K;
  dk_TKE.zero_();
  dv_TKE.zero_();
  ForEachItem(in.cu_seqlens, K, [&](int64_t document, int64_t kv) {
    const auto [start, L, key_start, before] = Document(in, document);
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (int64_t first = 0; first < L; first += kRows) {
        const int64_t rows = std::min(kRows, L - first);
        const Visible keys(in.scores, before + first, rows);
        const int64_t low = key_start + keys.low, columns = keys.columns;
        const at::Tensor k = HeadRows(in.k_TKE, kv, low, columns);
        const at::Tensor q = HeadRows(in.q_THE, h, start + first, rows);
        const at::Tensor dout = HeadRows(dout_THE, h, start + first, rows);
        at::Tensor p = at::mm(q, k.t());
        at::Tensor dp = at::mm(dout, HeadRows(in.v_TKE, kv, low, columns).t());
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t t = start + first + r;
          const S delta = Dot(HeadRow<S>(dout_THE, h, t), HeadRow<S>(out_THE, h, t), E);
          BackwardRow(p.data_ptr<S>() + r * columns, dp.data_ptr<S>() + r * columns, keys.First(r), keys.Last(r),
                      columns, in.scores, lse_HT.const_data_ptr<S>()[h * T + t], delta);
        }
        HeadRows(dv_TKE, kv, low, columns).addmm_(p.t(), dout);
        HeadRows(dk_TKE, kv, low, columns).addmm_(dp.t(), q);
        at::Tensor dq = HeadRows(dq_THE, h, start + first, rows);
        at::mm_out(dq, dp, k);
      }
    }
  });
}

}  // namespace

void VarlenAttentionForwardCpu(const VarlenAttentionInputs& in, at::Tensor& out_THE,
                               at::Tensor& lse_HT) {
  in.q_THE.scalar_type() == at::kDouble ? Forward<double>(in, out_THE, lse_HT)
                                        : Forward<float>(in, out_THE, lse_HT);
}

void VarlenAttentionBackwardCpu(const VarlenAttentionInputs& in, const at::Tensor& dout_THE,
                                const at::Tensor& out_THE, const at::Tensor& lse_HT,
                                at::Tensor& dq_THE, at::Tensor& dk_TKE, at::Tensor& dv_TKE) {
  in.q_THE.scalar_type() == at::kDouble
      ? Backward<double>(in, dout_THE, out_THE, lse_HT, dq_THE, dk_TKE, dv_TKE)
      : Backward<float>(in, dout_THE, out_THE, lse_HT, dq_THE, dk_TKE, dv_TKE);
}

}  // namespace finetuned::kernels
