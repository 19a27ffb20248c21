// Plain parameters of the paged cache. Legend: see paged_attention.h.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct PagedIndex {
  const int32_t* slots;      // [T]
  const int32_t* positions;  // [S], or [T]
  const int32_t* tables;     // [S, M]
  int64_t M;
  bool rows_have_positions;
};

FT_HOST_DEVICE int32_t PagedPosition(const PagedIndex& x, int64_t row) {
  return x.positions[x.rows_have_positions ? row : x.slots[row]];
}

// First element of token `position` of head `head` of the slot of `row`.
FT_HOST_DEVICE int64_t PagedOffset(const PagedIndex& x, int64_t row, int64_t position, int64_t head,
                                   int64_t kv_heads, int64_t head_size) {
  constexpr int64_t kTokens = 16;  // kCacheBlock
  const int64_t block = x.tables[x.slots[row] * x.M + position / kTokens];
  return ((block * kv_heads + head) * kTokens + position % kTokens) * head_size;
}

struct WritePagedParams {
  const void* k;  // [T, K, E], rows row_stride apart
  const void* v;
  void* k_cache;  // [N, K, P, E]
  void* v_cache;
  PagedIndex index;
  int64_t T, K, E;
  int64_t k_stride, v_stride;
};

struct PagedAttentionParams {
  const void* q;  // [B, H, E], rows q_stride apart
  const void* k_cache;
  const void* v_cache;
  void* out;       // [B, H, E], rows out_stride apart
  float* partial;  // [B, H, splits, E + 2]: sum of p v, largest score, sum of p
  PagedIndex index;
  int64_t B, H, K, E;
  int64_t q_stride, out_stride;
  int64_t splits;
  int64_t window;  // tokens a row sees, 0: all
  float scale;
  float softcap;  // 0: none
};

// First token that a row at the last of `tokens` sees.
FT_HOST_DEVICE int64_t PagedFirst(const PagedAttentionParams& p, int64_t tokens) {
  return p.window > 0 && p.window < tokens ? tokens - p.window : 0;
}

void WritePagedCpu(const WritePagedParams& p, Dtype dtype);
void PagedAttentionCpu(const PagedAttentionParams& p, Dtype dtype);
void WritePagedCuda(const WritePagedParams& p, Dtype dtype, CudaStream stream);
void PagedAttentionCuda(const PagedAttentionParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
