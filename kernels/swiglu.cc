#include "kernels/swiglu.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/swiglu_params.h"

namespace finetuned::kernels {
namespace {

int64_t CheckGateUp(const char* op, const at::Tensor& gate_up_T2F) {
  TORCH_CHECK(gate_up_T2F.dim() == 2 && gate_up_T2F.size(1) % 2 == 0, op, ": gate_up has shape ",
              gate_up_T2F.sizes(), ", expected [T, 2F]");
  return CheckRows(op, "gate_up", gate_up_T2F, gate_up_T2F.sizes(), gate_up_T2F.scalar_type(),
                   gate_up_T2F.device());
}

}  // namespace

void SwigluForward(const at::Tensor& gate_up_T2F, at::Tensor& h_TF, Gate gate) {
  const char* op = "SwigluForward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, gate_up_T2F);
  const int64_t stride = CheckGateUp(op, gate_up_T2F);
  const int64_t T = gate_up_T2F.size(0), F = gate_up_T2F.size(1) / 2;
  const int64_t h_stride =
      CheckRows(op, "h", h_TF, {T, F}, gate_up_T2F.scalar_type(), gate_up_T2F.device());
  if (h_TF.numel() == 0) return;
  const SwigluForwardParams p = {
      .gate_up = gate_up_T2F.data_ptr(),
      .h = h_TF.data_ptr(),
      .gate_up_stride = stride,
      .h_stride = h_stride,
      .T = T,
      .F = F,
      .gelu = gate == Gate::kGeluTanh};
  if (h_TF.is_cuda()) {
    OnCuda(op, h_TF, [&](auto stream) { SwigluForwardCuda(p, dtype, stream); });
  } else {
    SwigluForwardCpu(p, dtype);
  }
}

void SwigluBackward(const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F,
                    at::Tensor& d_gate_up_T2F, const at::Tensor& h_TF, Gate gate) {
  const char* op = "SwigluBackward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, gate_up_T2F);
  const int64_t stride = CheckGateUp(op, gate_up_T2F);
  const int64_t T = gate_up_T2F.size(0), F = gate_up_T2F.size(1) / 2;
  const at::ScalarType type = gate_up_T2F.scalar_type();
  CheckTensor(op, "dh", dh_TF, {T, F}, type, gate_up_T2F.device());
  const int64_t d_stride =
      CheckRows(op, "d_gate_up", d_gate_up_T2F, {T, 2 * F}, type, gate_up_T2F.device());
  if (h_TF.defined()) CheckTensor(op, "h", h_TF, {T, F}, type, gate_up_T2F.device());
  if (dh_TF.numel() == 0) return;
  const SwigluBackwardParams p = {
      .dh = dh_TF.data_ptr(),
      .gate_up = gate_up_T2F.data_ptr(),
      .d_gate_up = d_gate_up_T2F.data_ptr(),
      .h = h_TF.defined() ? h_TF.data_ptr() : nullptr,
      .gate_up_stride = stride,
      .d_gate_up_stride = d_stride,
      .T = T,
      .F = F,
      .gelu = gate == Gate::kGeluTanh,
  };
  if (dh_TF.is_cuda()) {
    OnCuda(op, dh_TF, [&](auto stream) { SwigluBackwardCuda(p, dtype, stream); });
  } else {
    SwigluBackwardCpu(p, dtype);
  }
}

}  // namespace finetuned::kernels
