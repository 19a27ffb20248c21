// Surrounds a dequantized weight with its LoRA matrices, so that one product applies both:
//   [x, x A^T] [W, s B]^T = x W^T + s (x A^T) B^T,   [dy, s dy B] [W; A] = dy W + s (dy B) A.
// Legend: I inputs, O outputs, R rank of a part, G sum of the ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finetuned::kernels {

// The adapter of rows [first_row, first_row + b.size(0)) of the weight.
struct LowRankPart {
  at::Tensor b_OR;  // contiguous
  int64_t first_row = 0;
};

inline constexpr int kMaxLowRankParts = 3;

// extended: [O + G, I + G], rows may lie further apart; the weight's place [0, O) x [0, I) is not touched.
//   Columns [I, I + G) of the rows below O receive scale * B of each part at its own rows and columns, 0
//   elsewhere. with_a: the columns below I of rows [O, O + G) receive a_GI. The corner is not written.
// a_GI: contiguous. parts: at most 3, in the order of their columns. One dtype and device for all: float32 or
// bfloat16 on CUDA, float32 or float64 on the CPU. Errors: c10::Error naming what is wrong.
void WriteLowRankBorder(at::Tensor& extended, const at::Tensor& a_GI,
                        const std::vector<LowRankPart>& parts, double scale, bool with_a);

}  // namespace finetuned::kernels
