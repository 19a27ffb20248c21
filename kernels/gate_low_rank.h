// Backward of the MLP's gate together with what its result gives to the adapters of gate and up: SwigluBackward in place
// (swiglu.h), then LowRankGradients of that (low_rank_gradients.h), on a GPU without reading the widest gradient again.
// Legend: T tokens, F intermediate size, R rank of a part, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/low_rank_gradients.h"
#include "kernels/swiglu.h"

namespace finetuned::kernels {

// Whether the CUDA kernel takes these: what LowRankGradientsFused takes, in two parts, gate at column 0 and up at F, F a
// multiple of 256; rows of dh and u at addresses of 16 bytes. Others are the two ops one after another, as on the CPU.
bool GateLowRankFused(const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F, const at::Tensor& u_TG,
                      const std::vector<LowRankGradientPart>& parts);

// gate_up_T2F becomes its own gradient, the same bits as SwigluBackward's; du_TG = scale * that * B and dB of each part
// += scale * that^T u. dh_TF is contiguous, rows of the others may lie further apart than their length.
//   splits   as LowRankGradients has it
//   scratch  undefined: the two ops; else float32, overwritten. Fused: at least (2 ceil(F / 512) T + splits 2 F) R.
void GateLowRankBackward(const at::Tensor& dh_TF, at::Tensor& gate_up_T2F, const at::Tensor& u_TG,
                         const std::vector<LowRankGradientPart>& parts, double scale, int64_t splits,
                         const at::Tensor& scratch, at::Tensor& du_TG, Gate gate = Gate::kSilu);

}  // namespace finetuned::kernels
