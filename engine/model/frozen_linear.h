// A frozen linear layer: one or more stored matrices that read the same input, stacked by rows.
// Legend: I inputs, O outputs of all parts together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/stored_matrix.h"

namespace finetuned::model {

// Either dense in the compute type, or one quantized matrix per stored one: each keeps its own offset
// and scales, so it is bit-equal to quantizing that matrix alone. Some of these may be dense.
class FrozenLinear {
 public:
  FrozenLinear() = default;
  // weight_OI: dense, compute type. bias_O may be undefined.
  static FrozenLinear Dense(at::Tensor weight_OI, at::Tensor bias_O);
  // REQUIRES: all parts have `in` columns, and one is quantized.
  static FrozenLinear Stored(std::vector<StoredMatrix> parts, int64_t in, at::Tensor bias_O);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  const at::Tensor& bias_O() const { return bias_O_; }
  bool quantized() const { return !parts_.empty(); }
  const std::vector<StoredMatrix>& parts() const { return parts_; }
  // The parts where all are 4-bit codes of one table, else empty: what kernels/nf4_gemm.h multiplies with.
  const std::vector<kernels::Nf4Tensor>& four_bit() const { return four_bit_; }
  // Likewise where all are INT8: what int8_product.h multiplies with.
  const std::vector<kernels::RowCodes>& int8() const { return int8_; }
  int64_t bytes() const;

  // The weight [O, I] in the compute type: the dense tensor itself, or Extended(scratch, 0).
  at::Tensor Weight(const at::Tensor& scratch) const;
  // REQUIRES: quantized(). The parts dequantized into the upper left [O, I] of a matrix
  // [O + border, I + border] at the front of `scratch` (compute type, ScratchElements(border)), valid until
  // scratch is used again. The border is not written.
  at::Tensor Extended(const at::Tensor& scratch, int64_t border) const;
  // The same matrix as Extended left it there.
  at::Tensor ExtendedView(const at::Tensor& scratch, int64_t border) const;
  int64_t ScratchElements(int64_t border) const;

  // Rows [first, first + count) in the compute type: of the dense tensor, or dequantized at the front of `scratch`
  // (count * in elements). REQUIRES: one part, in 4-bit codes; first a multiple of RowStep().
  at::Tensor Rows(int64_t first, int64_t count, const at::Tensor& scratch) const;
  int64_t RowStep() const { return quantized() ? kernels::Nf4RowStep(in_) : 1; }

  // For products in 8-bit codes (kernels/codes8.h). Measures the scales of rows and columns.
  // REQUIRES: four_bit() not empty, in and out of every part multiples of kernels::kCodes8Align.
  void PrepareCodes(at::ScalarType codes);
  const at::Tensor& scale_O() const { return scale_O_; }
  const at::Tensor& scale_I() const { return scale_I_; }
  // codes: [O, I], or transposed [I, O], written. REQUIRES: PrepareCodes.
  void WriteCodes(bool transposed, at::Tensor& codes) const;

 private:
  int64_t RowStride(int64_t border) const;

  int64_t in_ = 0, out_ = 0;
  at::Tensor dense_OI_, bias_O_, scale_O_, scale_I_;
  std::vector<StoredMatrix> parts_;
  std::vector<kernels::Nf4Tensor> four_bit_;
  std::vector<kernels::RowCodes> int8_;
};

}  // namespace finetuned::model
