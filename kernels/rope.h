// Rotary position embedding of the first R elements of each head. Half-split pairs as in Llama of transformers: element
// e < R/2 is rotated with element e + R/2 by the angle position * inv_freq[e]. Interleaved as in Cohere: element 2 e
// with 2 e + 1.
// Legend: T tokens, H heads, E head size, R rotated elements (even, at most E).
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

struct RopeOptions {
  bool interleaved = false;
  double magnitude = 1.0;  // cosine and sine are multiplied with it (LongRoPE)
};

// Rotates x in place.
//   x_THE           float32 or bfloat16 (CPU: float32, float64); strides [any >= H*E, E, 1], so a
//                   slice of a fused qkv buffer is allowed.
//   position_ids_T  int32, the position inside the token's own document.
//   inv_freq        float32 [R/2], scaling of long-context variants already applied.
//   sign            +1 forward; -1 rotates back, which is the backward pass (applied to dx): the magnitude stays.
// Angle, cosine and sine are float32, cosine and sine are then rounded to the dtype of x (as
// transformers does); the rotation is float32 with one rounding.
void RopeInPlace(at::Tensor& x_THE, const at::Tensor& position_ids_T, const at::Tensor& inv_freq,
                 int sign, const RopeOptions& options = {});

}  // namespace finetuned::kernels
