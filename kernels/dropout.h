// Dropout whose mask is a pure function of (seed, offset, element index): nothing is stored, the
// backward calls the same function on the gradient, and a resumed run draws the same masks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace finetuned::kernels {

// y = keep ? x / (1 - p) : 0, keep with probability 1 - p. Element i keeps when word i % 4 of
// Philox4x32-10(counter = {i / 4 (64 bits), offset (64 bits)}, key = seed) >= round(p * 2^32).
// The same bits on CPU and CUDA.
//   x, y  float32 or bfloat16, contiguous, equal shapes; y may be x.
//   p     in [0, 1); 0 copies.
//   offset  one number per call site and step, e.g. step * sites + site.
//   first   index of x's first element, a multiple of 4: a piece of a tensor gets the masks it has in the whole.
void DropoutForward(const at::Tensor& x, double p, uint64_t seed, uint64_t offset, at::Tensor& y,
                    int64_t first = 0);

}  // namespace finetuned::kernels
