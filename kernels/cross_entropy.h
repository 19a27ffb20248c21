// Softmax cross entropy of one chunk of logits, forward and gradient in one call.
// Legend: C rows (tokens) of the chunk, V vocabulary size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace finetuned::kernels {

inline constexpr int32_t kIgnoredLabel = -100;

// With p = softmax(logits) in float32 (float64 for float64 logits):
//   logits_CV   float32 or bfloat16 (CPU: float32, float64), contiguous. Without write_grad
//               unchanged. With it replaced by (p - target) * scale, where
//               target = (1 - label_smoothing) * onehot + label_smoothing / V; rows with an ignored
//               label become 0.
//   labels_C    int32; negative = ignored. A label >= V is an error on the CPU; on CUDA, where no
//               error can be raised without a sync, its loss is NaN and its gradient 0.
//   narrow_grad with write_grad, float32 logits on CUDA: the gradient is rounded to bfloat16 and lies in the
//               front half of each row's memory; NarrowGradient gives the view.
//   softcap     above 0: the logits are softcap * tanh(logits / softcap), and the gradient is that of what lies in
//               logits_CV.
//   scale       float32 [1], or [C] for a weight per row, on the device of the logits.
//   label_smoothing  in [0, 1), as torch.nn.functional.cross_entropy.
//   loss_C      float32, written: -sum(target * log p), so -log p[label] without smoothing; not
//               scaled; 0 for ignored rows.
//   entropy_C   float32, may be undefined: -sum(p * log p), for ignored rows too.
//   correct_C   uint8, may be undefined: 1 where the (first) largest logit is the label.
//   d_entropy_C float32, may be undefined; needs write_grad and entropy_C: the gradient gets
//               d_entropy * dentropy/dlogits = -d_entropy * p * (log p + entropy) on top, not for ignored rows.
void CrossEntropyChunk(at::Tensor& logits_CV, const at::Tensor& labels_C, const at::Tensor& scale,
                       double label_smoothing, bool write_grad, at::Tensor& loss_C,
                       const at::Tensor& entropy_C = at::Tensor(),
                       const at::Tensor& correct_C = at::Tensor(), bool narrow_grad = false,
                       const at::Tensor& d_entropy_C = at::Tensor(), double softcap = 0);

// bfloat16 [C, V] with rows 2 V apart: what a call with narrow_grad left in logits_CV.
at::Tensor NarrowGradient(const at::Tensor& logits_CV);

}  // namespace finetuned::kernels
