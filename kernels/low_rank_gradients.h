// What the gradient of a fused linear's output gives to its adapters, in one pass over that gradient: of each part
//   du = s dy B   and   dB += s dy^T u.
// Legend: T rows, O outputs of the linear, R rank of a part, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finetuned::kernels {

// The adapter of columns [first_column, first_column + b.size(0)) of dy.
struct LowRankGradientPart {
  at::Tensor b_OR;   // contiguous, dy's dtype
  at::Tensor db_OR;  // contiguous, float32 (float64 beside float64); added to
  int64_t first_column = 0;
};

// Whether the CUDA kernel takes these parts: bfloat16, at most 3, one rank for all, 16 or 32, widths and first columns
// multiples of 64, addresses of 32 bytes. Others are products of LibTorch, as on the CPU.
bool LowRankGradientsFused(const at::Tensor& dy_TO, const std::vector<LowRankGradientPart>& parts);

// u_TG, du_TG: columns of the parts one after another; rows of all matrices may lie further apart than their length.
//   splits   parts of the rows that are summed apart, at least 1. Fused alone, as is scratch:
//   scratch  undefined: products of LibTorch; else float32, at least LowRankGradientElements(T, widths of the parts, R, splits), overwritten.
// Sums are float32 (float64 beside float64) in an order that depends on shapes and splits alone.
void LowRankGradients(const at::Tensor& dy_TO, const at::Tensor& u_TG, const std::vector<LowRankGradientPart>& parts,
                      double scale, int64_t splits, const at::Tensor& scratch, at::Tensor& du_TG);

}  // namespace finetuned::kernels
