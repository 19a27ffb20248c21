// Gate of the MLP: h = act(gate) * up, from one fused projection; act is silu (Llama) or gelu in its tanh
// approximation (Gemma).
// Legend: T tokens, F intermediate size. gate_up_T2F holds gate in columns [0, F), up in [F, 2F).
// float32 or bfloat16 (CPU: float32, float64), math in float32. Contiguous, but rows of gate_up, of its gradient
// and of the forward's h may lie further apart than their length.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

enum class Gate { kSilu, kGeluTanh };

void SwigluForward(const at::Tensor& gate_up_T2F, at::Tensor& h_TF, Gate gate = Gate::kSilu);

// d_gate_up_T2F = gradient with respect to gate_up_T2F; may be the same memory as gate_up_T2F.
// h_TF (optional, may be undefined): also receives act(gate) * up again, so that the forward's
// output need not be kept; may be the same memory as dh_TF.
void SwigluBackward(const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F,
                    at::Tensor& d_gate_up_T2F, const at::Tensor& h_TF = at::Tensor(),
                    Gate gate = Gate::kSilu);

}  // namespace finetuned::kernels
