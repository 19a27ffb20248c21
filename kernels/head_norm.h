// Normalization of each head's vector, RMS or LayerNorm without bias: norms of q and k, and, with one head, norms of
// hidden vectors that subtract the mean. For root mean squares of hidden vectors rms_norm.h is faster.
// Legend: T tokens, H heads, E head size. All tensors on one device; strides [any, E, 1].
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

struct HeadNormOptions {
  double eps = 1e-6;
  bool center = false;  // subtract the mean first (LayerNorm)
};

// y = w * (x - m) * rstd, rstd = 1 / sqrt(mean((x - m)^2) + eps), m the mean of x with center, otherwise 0.
//   x_THE  float32 or bfloat16 (CPU: float32, float64).
//   w      [E], or [H, E]: of each head. The dtype of x: the normalized value is rounded to it before it is multiplied;
//          or float32 beside a bfloat16 x: one rounding at the end.
//   y_THE  written, dtype of x; must not overlap x.
void HeadNormForward(const at::Tensor& x_THE, const at::Tensor& w, const HeadNormOptions& options, at::Tensor& y_THE);

// dx = gradient with respect to x; the weight is frozen and gets none.
//   accumulate  true: the gradient is added to what dx_THE holds.
//   dx_THE      written; may be dy_THE when accumulate is false.
void HeadNormBackward(const at::Tensor& dy_THE, const at::Tensor& x_THE, const at::Tensor& w,
                      const HeadNormOptions& options, bool accumulate, at::Tensor& dx_THE);

}  // namespace finetuned::kernels
