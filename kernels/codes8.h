// Products of matrices in 8-bit codes: FP8 (e4m3, compute capability 8.9 and newer) or INT8 (8.0 and newer), each row of
// both factors with a scale of its own. value = code * scale; scale = largest magnitude of the row / Codes8Limit.
// Legend: M, N rows of the factors, K what is summed over, O outputs and I inputs of a weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/nf4.h"

namespace finetuned::kernels {

// Codes are tensors of kFloat8_e4m3fn or kChar (int8).
inline constexpr int64_t kCodes8Align = 16;  // K and N of a product are multiples of this

// The largest value of a code: 448 or 127.
float Codes8Limit(at::ScalarType codes);

// codes = x / scale, to the nearest code (ties to even); scale_M is written, float32.
//   x_MK     float32 or bfloat16 (bfloat16 on CUDA only), rows may lie further apart than K.
//   codes_MK contiguous. A row of zeros has scale 0 and codes 0.
void QuantizeRows(const at::Tensor& x_MK, at::Tensor& codes_MK, at::Tensor& scale_M);

// An NF4 weight as codes of the rows of the matrix, or of its columns, transposed.
//   q          of shape [O, I].
//   scale      float32: transposed false: of its rows, [O]; true: of the columns, [I].
//   codes      false: [O, I]; true: [I, O], rows may lie further apart.
void Nf4ToCodes(const Nf4Tensor& q, const at::Tensor& scale, bool transposed, at::Tensor& codes);

// y = a b^T with scales applied.
//   a_MK, b_NK  codes of one type, contiguous. K, N multiples of kCodes8Align.
//   scale_M, scale_N  float32, contiguous.
//   sums        INT8 on CUDA: int32 with room for at least Codes8Rows(1) * N, else may be undefined. More rows than it
//               has room for are taken in turns.
//   y_MN        bfloat16 or float32 (CPU: float32), rows may lie further apart than N.
// a_MK and scale_M must have Codes8Rows(M) rows in memory: INT8 products read at least so many.
void MultiplyCodes(const at::Tensor& a_MK, const at::Tensor& scale_M, const at::Tensor& b_NK,
                   const at::Tensor& scale_N, at::Tensor sums, at::Tensor& y_MN);

// cuBLAS multiplies INT8 matrices of more than 16 rows only.
inline int64_t Codes8Rows(int64_t rows) { return rows < 32 ? 32 : rows; }

}  // namespace finetuned::kernels
