// Root-mean-square normalization of each token's hidden vector, as LlamaRMSNorm of transformers.
// Legend: T tokens, D hidden size. All tensors on one device and contiguous; rows of y, dy and dx may lie
// further apart than D.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

// y = w * cast(x * rstd), rstd = 1 / sqrt(mean(x^2) + eps).
//   x_TD    float32 or bfloat16 (CPU: float32, float64).
//   w_D     the dtype of x: the normalized value is rounded to that dtype before it is multiplied
//           (Llama). Or float32 beside a bfloat16 x: everything in float32, one rounding at the end
//           (Gemma; the caller passes 1 + weight).
//   y_TD    written, dtype of x; must not alias x.
//   rstd_T  written, float32 (float64 for a float64 x); the backward needs it.
// Errors of all functions here: c10::Error naming the op and the shape or dtype that is wrong.
void RmsNormForward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                    at::Tensor& rstd_T);

// sum = x + delta, rounded to their dtype, then y and rstd as RmsNormForward(sum). sum_TD may be x_TD.
void AddRmsNormForward(const at::Tensor& x_TD, const at::Tensor& delta_TD, const at::Tensor& w_D,
                       double eps, at::Tensor& sum_TD, at::Tensor& y_TD, at::Tensor& rstd_T);

// dx = gradient of the norm with respect to x; the weight is frozen and gets none.
//   x_TD, rstd_T  the values of the forward call.
//   accumulate    true: the gradient is added to what dx_TD holds (the residual path).
//   dx_TD         written; may alias dy_TD when accumulate is false.
void RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                     const at::Tensor& rstd_T, bool accumulate, at::Tensor& dx_TD);

}  // namespace finetuned::kernels
