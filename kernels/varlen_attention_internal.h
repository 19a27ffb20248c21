// The CPU implementation behind varlen_attention.h. It works on tensors, not on a parameter struct:
// its inner loops are LibTorch matrix products over views.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/attention_scores.h"

namespace finetuned::kernels {

// Shapes, strides and dtypes are those of varlen_attention.h and have been checked; outputs are
// defined.
struct VarlenAttentionInputs {
  const at::Tensor& q_THE;
  const at::Tensor& k_TKE;
  const at::Tensor& v_TKE;
  const std::vector<int32_t>& cu_seqlens;
  const std::vector<int32_t>& cu_seqlens_k;  // the same, or of KeyDocuments
  const ScoreOptions& scores;
};

void VarlenAttentionForwardCpu(const VarlenAttentionInputs& in, at::Tensor& out_THE,
                               at::Tensor& lse_HT);
void VarlenAttentionBackwardCpu(const VarlenAttentionInputs& in, const at::Tensor& dout_THE,
                                const at::Tensor& out_THE, const at::Tensor& lse_HT,
                                at::Tensor& dq_THE, at::Tensor& dk_TKE, at::Tensor& dv_TKE);

// cuDNN's attention for bfloat16 on CUDA (varlen_attention_cudnn.cc). Its statistics fill the memory of lse_HT as
// [T, H]. Compiled once per shape class; the class depends on the batch alone, so equal batches take equal paths.
bool CudnnAttentionFits(const VarlenAttentionInputs& in, int64_t max_seqlen);
void CudnnAttentionForward(const VarlenAttentionInputs& in, const at::Tensor& cu_seqlens,
                           int64_t max_seqlen, at::Tensor& out_THE, at::Tensor& lse_HT);
void CudnnAttentionBackward(const VarlenAttentionInputs& in, const at::Tensor& cu_seqlens,
                            int64_t max_seqlen, const at::Tensor& dout_THE,
                            const at::Tensor& out_THE, const at::Tensor& lse_HT, at::Tensor& dq_THE,
                            at::Tensor& dk_TKE, at::Tensor& dv_TKE);

}  // namespace finetuned::kernels
