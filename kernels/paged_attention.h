// Keys and values of growing sequences in blocks of kCacheBlock tokens, and attention of one new token each.
// Legend: B rows of a step, T tokens, N blocks, P tokens of a block (kCacheBlock), S sequence slots, M blocks of a
// slot's table, H query heads, K key/value heads (H a multiple of K), E head size.
// Token `position` of slot s lies in block tables[s, position / P] at position % P. Entries of the table that no
// position reaches may hold anything.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/attention_scores.h"

namespace finetuned::kernels {

inline constexpr int64_t kCacheBlock = 16;

// The cache of one layer: contiguous, one dtype (float32 or bfloat16; CPU: float32, float64).
struct PagedCache {
  at::Tensor k_NKPE, v_NKPE;
};

// Which token of which sequence each row is. int32, contiguous, on the cache's device.
struct PagedRows {
  at::Tensor slots_T;      // in [0, S)
  at::Tensor positions_S;  // of each slot's row; or, rows_have_positions, [T]: of each row
  at::Tensor tables_SM;
  bool rows_have_positions = false;
};

// Stores the rows' keys and values. k_TKE, v_TKE: strides [any, E, 1], slices of a fused qkv buffer.
void WritePaged(const at::Tensor& k_TKE, const at::Tensor& v_TKE, const PagedRows& rows,
                PagedCache& cache);

// out = softmax(scores(q k^T)) v over tokens 0 .. position of the row's own sequence (already stored), or those in the
// window.
//   q_BHE, out_BHE  as k_TKE; CUDA: E 16, 32, 64, 96, 128 or 256.
//   splits          parts of a sequence that are attended to apart (CUDA only)
//   scratch         float32, PagedAttentionScratch elements (CUDA only), overwritten.
// Sums are float32 (float64 for float64), their order depends on the sequence's length and on splits alone.
void PagedAttention(const at::Tensor& q_BHE, const PagedCache& cache, const PagedRows& rows,
                    const ScoreOptions& scores, int64_t splits, const at::Tensor& scratch, at::Tensor& out_BHE);

int64_t PagedAttentionScratch(int64_t rows, int64_t heads, int64_t head_size, int64_t splits);

}  // namespace finetuned::kernels
