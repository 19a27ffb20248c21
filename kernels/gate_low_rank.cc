#include "kernels/gate_low_rank.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/gate_low_rank_params.h"
#include "kernels/low_rank_gradients_internal.h"

namespace finetuned::kernels {

bool GateLowRankFused(const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F, const at::Tensor& u_TG,
                      const std::vector<LowRankGradientPart>& parts) {
  const int64_t F = dh_TF.size(1);
  return parts.size() == 2 && LowRankGradientsFused(gate_up_T2F, parts) && F % kGateColumns == 0 &&
         parts[0].first_column == 0 && parts[0].b_OR.size(0) == F && parts[1].first_column == F &&
         parts[1].b_OR.size(0) == F && reinterpret_cast<uintptr_t>(dh_TF.data_ptr()) % 16 == 0 && LowRankInputsFused(u_TG);
}

void GateLowRankBackward(const at::Tensor& dh_TF, at::Tensor& gate_up_T2F, const at::Tensor& u_TG,
                         const std::vector<LowRankGradientPart>& parts, double scale, int64_t splits,
                         const at::Tensor& scratch, at::Tensor& du_TG, Gate gate) {
  const char* op = "GateLowRankBackward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(dh_TF.dim() == 2 && gate_up_T2F.dim() == 2 && gate_up_T2F.size(1) == 2 * dh_TF.size(1), op,
              ": gate_up has shape ", gate_up_T2F.sizes(), " and dh ", dh_TF.sizes(), ", expected [T, 2F] and [T, F]");
  if (!scratch.defined() || !GateLowRankFused(dh_TF, gate_up_T2F, u_TG, parts)) {
    SwigluBackward(dh_TF, gate_up_T2F, gate_up_T2F, {}, gate);
    return LowRankGradients(gate_up_T2F, u_TG, parts, scale, splits, scratch, du_TG);
  }
  const int64_t T = gate_up_T2F.size(0), F = dh_TF.size(1);
  CheckTensor(op, "dh", dh_TF, {T, F}, gate_up_T2F.scalar_type(), gate_up_T2F.device());
  GateLowRankParams p = {
      .dh = dh_TF.data_ptr(),
      .gate_up = gate_up_T2F.data_ptr(),
      .F = F,
      .gelu = gate == Gate::kGeluTanh,
      .low_rank = CheckLowRankGradients(op, gate_up_T2F, u_TG, parts, scale, splits, du_TG),
  };
  if (T == 0) return;
  AddLowRankParts(op, parts, kGateGroup, scratch, &p.low_rank);
  OnCuda(op, dh_TF, [&](auto stream) { GateLowRankCuda(p, stream); });
}

}  // namespace finetuned::kernels
