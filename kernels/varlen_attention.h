// Causal attention over a packed stream of documents that do not see each other.
// Legend: T tokens, H query heads, K key/value heads (H a multiple of K; query head h reads
// key/value head h / (H/K)), E head size, N documents.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/attention_scores.h"

namespace finetuned::kernels {

// Keys of documents that see more than their own rows: a prefix that was computed for another document.
struct KeyDocuments {
  // Document n has keys and values [cu[n], cu[n+1]), at least as many as queries, which are the last of its tokens: with
  // Q queries and S keys, query i sees the first S - Q + i + 1. As cu_seqlens below, over the rows of k and v.
  at::Tensor cu_seqlens;
  std::vector<int32_t> cu_seqlens_host;
  int64_t max_seqlen = 0;
};

// bfloat16 on CUDA: long documents on sm_90 and later go through cuDNN's graphs, everything else through
// LibTorch's flash attention (sm_80+), a window always; a softcap, which neither of them has, through products and
// elementwise operations, about a tenth as fast. Which one depends on the batch, the scores, and on `deterministic` and
// `keys` (flash) alone; both calls must be given the same.

// out = softmax(scores(q k^T), causal inside each document) v.
//   q_THE, k_TKE, v_TKE  one dtype; strides [any, E, 1]: slices of a fused qkv buffer are allowed.
//                        CUDA: bfloat16 (E a multiple of 8, E <= 256) or float32 (slow composed reference for tests). CPU: float32, float64.
//   cu_seqlens           int32 [N+1] on the device of q: document n is rows [cu[n], cu[n+1]);
//                        cu[0] = 0, cu[N] = T. cu_seqlens_host: the same numbers on the host.
//   max_seqlen           longest document.
//   keys                 null: the keys of a document are its own rows. Else k and v have the rows that it says.
//   out_THE              dtype of q, rows may lie further apart than H*E. Defined: written. Undefined:
//                        set to a new tensor.
//   lse_HT               float32 (float64 for float64) log-sum-exp of each row, contiguous; as
//                        out_THE. What cuDNN (below) leaves in it is for its backward alone.
void VarlenAttentionForward(const at::Tensor& q_THE, const at::Tensor& k_TKE,
                            const at::Tensor& v_TKE, const at::Tensor& cu_seqlens,
                            const std::vector<int32_t>& cu_seqlens_host, int64_t max_seqlen,
                            const ScoreOptions& scores, at::Tensor& out_THE, at::Tensor& lse_HT,
                            bool deterministic = false, const KeyDocuments* keys = nullptr);

// Gradients of q, k, v from dout and the values of the forward call.
//   dq_THE, dk_TKE, dv_TKE  each defined: written, strides [any, E, 1], must not alias the inputs;
//                           undefined: set to a new tensor.
//   deterministic           CUDA bfloat16: use the algorithm that repeats bit for bit (slower, more
//                           workspace). The others always repeat for a fixed thread count.
// Workspace of CUDA bfloat16, freed on return, with R = T + 128 N and E' = E rounded up to 32 (to
// 64 above 128): float32 [S, R, H, E'] and [H, R], S = 1, deterministic S = ceil(SMs / (N H));
// for K < H also two bfloat16 [T, H, E]. With a softcap: kComposedCopies float32 [H, ComposedRows, longest] and copies of
// a document's keys and values for every query head.
void VarlenAttentionBackward(const at::Tensor& dout_THE, const at::Tensor& q_THE,
                             const at::Tensor& k_TKE, const at::Tensor& v_TKE,
                             const at::Tensor& out_THE, const at::Tensor& lse_HT,
                             const at::Tensor& cu_seqlens,
                             const std::vector<int32_t>& cu_seqlens_host, int64_t max_seqlen,
                             const ScoreOptions& scores, at::Tensor& dq_THE, at::Tensor& dk_TKE,
                             at::Tensor& dv_TKE, bool deterministic, const KeyDocuments* keys = nullptr);

}  // namespace finetuned::kernels
