// The CPU implementation behind varlen_attention.h. It works on tensors, not on a parameter struct:
// its inner loops are LibTorch matrix products over views.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finetuned::kernels {

// Shapes, strides and dtypes are those of varlen_attention.h and have been checked; outputs are
// defined.
struct VarlenAttentionInputs {
  const at::Tensor& q_THE;
  const at::Tensor& k_TKE;
  const at::Tensor& v_TKE;
  const std::vector<int32_t>& cu_seqlens;
  double scale;
};

void VarlenAttentionForwardCpu(const VarlenAttentionInputs& in, at::Tensor& out_THE,
                               at::Tensor& lse_HT);
void VarlenAttentionBackwardCpu(const VarlenAttentionInputs& in, const at::Tensor& dout_THE,
                                const at::Tensor& out_THE, const at::Tensor& lse_HT,
                                at::Tensor& dq_THE, at::Tensor& dk_TKE, at::Tensor& dv_TKE);

}  // namespace finetuned::kernels
