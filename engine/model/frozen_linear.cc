#include "engine/model/frozen_linear.h"

#include <ATen/ATen.h>

#include "engine/plan/memory_plan.h"
#include "kernels/codes8.h"

namespace finetuned::model {
namespace {

int64_t Bytes(const at::Tensor& t) { return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0; }

// Stored files may bring tables of their own; products with codes as they are stored take one for all parts.
bool SameTables(const kernels::Nf4Tensor& a, const kernels::Nf4Tensor& b) {
  return a.nested == b.nested && at::equal(a.code_map, b.code_map) &&
         (!a.nested || at::equal(a.nested_map, b.nested_map));
}

std::vector<kernels::Nf4Tensor> FourBitParts(const std::vector<StoredMatrix>& parts) {
  std::vector<kernels::Nf4Tensor> found;
  for (const StoredMatrix& part : parts) {
    const auto* four_bit = std::get_if<kernels::Nf4Tensor>(&part);
    if (four_bit == nullptr || (!found.empty() && !SameTables(found[0], *four_bit))) return {};
    found.push_back(*four_bit);
  }
  return found;
}

std::vector<kernels::RowCodes> Int8Parts(const std::vector<StoredMatrix>& parts) {
  std::vector<kernels::RowCodes> found;
  for (const StoredMatrix& part : parts) {
    const auto* rows = std::get_if<kernels::RowCodes>(&part);
    if (rows == nullptr || rows->codes_OI.scalar_type() != at::kChar) return {};
    found.push_back(*rows);
  }
  return found;
}

}  // namespace

FrozenLinear FrozenLinear::Dense(at::Tensor weight_OI, at::Tensor bias_O) {
  FrozenLinear linear;
  linear.out_ = weight_OI.size(0);
  linear.in_ = weight_OI.size(1);
  linear.dense_OI_ = std::move(weight_OI);
  linear.bias_O_ = std::move(bias_O);
  return linear;
}

FrozenLinear FrozenLinear::Stored(std::vector<StoredMatrix> parts, int64_t in, at::Tensor bias_O) {
  FrozenLinear linear;
  linear.in_ = in;
  for (const StoredMatrix& part : parts) linear.out_ += StoredRows(part);
  linear.parts_ = std::move(parts);
  linear.four_bit_ = FourBitParts(linear.parts_);
  linear.int8_ = Int8Parts(linear.parts_);
  linear.bias_O_ = std::move(bias_O);
  return linear;
}

int64_t FrozenLinear::bytes() const {
  int64_t sum = Bytes(dense_OI_) + Bytes(bias_O_) + Bytes(scale_O_) + Bytes(scale_I_);
  for (const StoredMatrix& part : parts_) sum += StoredBytes(part);
  return sum;
}

// Rows start at multiples of 16 bytes where the weight's own do.
int64_t FrozenLinear::RowStride(int64_t border) const { return in_ + plan::SpareColumns(border); }

int64_t FrozenLinear::ScratchElements(int64_t border) const {
  return quantized() ? (out_ + border) * RowStride(border) : 0;
}

at::Tensor FrozenLinear::Weight(const at::Tensor& scratch) const {
  return quantized() ? Extended(scratch, 0) : dense_OI_;
}

at::Tensor FrozenLinear::ExtendedView(const at::Tensor& scratch, int64_t border) const {
  return scratch.narrow(0, 0, ScratchElements(border))
      .view({out_ + border, RowStride(border)})
      .narrow(1, 0, in_ + border);
}

at::Tensor FrozenLinear::Extended(const at::Tensor& scratch, int64_t border) const {
  at::Tensor all = ExtendedView(scratch, border);
  int64_t row = 0;
  for (const StoredMatrix& part : parts_) {
    at::Tensor rows = all.narrow(0, row, StoredRows(part)).narrow(1, 0, in_);
    Dequantize(part, rows);
    row += rows.size(0);
  }
  return all;
}

at::Tensor FrozenLinear::Rows(int64_t first, int64_t count, const at::Tensor& scratch) const {
  if (!quantized()) return dense_OI_.narrow(0, first, count);
  TORCH_CHECK(four_bit_.size() == 1, "FrozenLinear::Rows: the weight has ", four_bit_.size(), " parts in 4-bit codes");
  at::Tensor rows = scratch.narrow(0, 0, count * in_).view({count, in_});
  kernels::Nf4Dequantize(kernels::Nf4Rows(four_bit_[0], first, count), rows);
  return rows;
}

void FrozenLinear::PrepareCodes(at::ScalarType codes) {
  std::vector<at::Tensor> rows;
  for (const kernels::Nf4Tensor& part : four_bit_) {
    at::Tensor dense = at::empty(part.shape, part.codes.options().dtype(at::kFloat));
    kernels::Nf4Dequantize(part, dense);
    dense.abs_();
    rows.push_back(at::amax(dense, {1}));
    const at::Tensor columns = at::amax(dense, {0});
    scale_I_ = scale_I_.defined() ? at::maximum(scale_I_, columns) : columns;
  }
  const float limit = kernels::Codes8Limit(codes);
  scale_O_ = at::cat(rows).div_(limit);
  scale_I_.div_(limit);
}

void FrozenLinear::WriteCodes(bool transposed, at::Tensor& codes) const {
  int64_t row = 0;
  for (const kernels::Nf4Tensor& part : four_bit_) {
    at::Tensor place = codes.narrow(transposed ? 1 : 0, row, part.shape[0]);
    const at::Tensor scale = transposed ? scale_I_ : scale_O_.narrow(0, row, part.shape[0]);
    kernels::Nf4ToCodes(part, scale, transposed, place);
    row += part.shape[0];
  }
}

}  // namespace finetuned::model
