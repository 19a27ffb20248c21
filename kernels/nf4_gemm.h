// Product of few rows with an NF4 weight that is never dequantized into memory: what decoding needs, where the
// weight's bytes are read once and nothing else counts.
// Legend: M rows, I inputs, O outputs of all parts together, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/low_rank_border.h"
#include "kernels/nf4.h"

namespace finetuned::kernels {

// Adapters of the parts: y[:, first_row ..] += scale * u b^T, where u's columns are those of the parts in order.
struct LowRankTerm {
  at::Tensor u_MG;                 // rows may lie further apart; undefined: no adapters
  std::vector<LowRankPart> parts;  // at most kMaxLowRankParts
  double scale = 1;
};

// Whether the op takes this weight: I a multiple of 64, at most 3 parts.
bool Nf4GemmSupports(const std::vector<Nf4Tensor>& parts, int64_t in);

// y = x W^T + low rank term + bias; W = the parts stacked by rows, each element as Nf4Dequantize makes it in x's dtype;
// sums in float32, one rounding at the end.
//   x_MI, y_MO  bfloat16 on CUDA, float32 on the CPU; rows may lie further apart (x: multiples of 8).
//   bias_O      may be undefined.
//   splits      parts of the inputs that are summed apart, at most I / 128 (CUDA only).
//   scratch     float32, splits * M * O elements (CUDA only), overwritten.
// The order of a sum depends on I, O and splits alone: a row's result does not depend on the rows beside it.
void Nf4Gemm(const std::vector<Nf4Tensor>& parts, const at::Tensor& x_MI, const at::Tensor& bias_O,
             const LowRankTerm& low_rank, int64_t splits, const at::Tensor& scratch,
             at::Tensor& y_MO);

}  // namespace finetuned::kernels
