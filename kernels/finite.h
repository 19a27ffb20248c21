// Global gradient norm, the clip factor and the "is it finite" flag, all left on the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace finetuned::kernels {

//   grads      contiguous float32 tensors on one device; an empty list has norm 0.
//   norm_out   float32 [1]: L2 norm over all elements.
//   scale_out  float32 [1]: min(1, max_norm / (norm + 1e-6)) as torch clip_grad_norm_; 1 when
//              max_norm <= 0.
//   skip_out   float32 [1]: 1 when the norm is not finite, else 0.
// The three outputs are on the device of the gradients; feed them to AdamWStep. The order of the
// sum is fixed, so equal gradients give equal bits (CPU: for a fixed thread count too).
void GradNormAndScale(const std::vector<at::Tensor>& grads, double max_norm, at::Tensor& norm_out,
                      at::Tensor& scale_out, at::Tensor& skip_out);

}  // namespace finetuned::kernels
