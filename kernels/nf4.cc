#include "kernels/nf4.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <numeric>

#include "kernels/blockwise8.h"
#include "kernels/dispatch.h"
#include "kernels/nf4_params.h"

namespace finetuned::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

Dtype WeightDtype(const char* op, at::ScalarType type, bool half_allowed) {
  if (type == at::kFloat) return Dtype::kFloat32;
  if (type == at::kBFloat16) return Dtype::kBFloat16;
  TORCH_CHECK(half_allowed && type == at::kHalf, op, ": ", type, " is not supported (float32, ",
              half_allowed ? "float16, " : "", "bfloat16)");
  return Dtype::kFloat16;
}

at::Tensor MapTensor(const float* values, int64_t n, at::Device device) {
  return at::from_blob(const_cast<float*>(values), {n}, at::kFloat).clone().to(device);
}

// Fills absmax_q, absmax2, offset and nested_map from absmax, which is dropped.
void Nest(const char* op, Nf4Tensor& q) {
  const at::Device device = q.absmax.device();
  const int64_t B = q.absmax.numel();
  q.nested = true;
  q.offset = q.absmax.cpu().mean().item<float>();
  q.nested_map = MapTensor(SignedDynamicMap().data(), 256, device);
  q.absmax_q = at::empty({B}, at::dtype(at::kByte).device(device));
  q.absmax2 = at::empty({CeilDiv(B, kNf4NestedBlock)}, q.absmax.options());
  const Nf4NestParams p = {
      .absmax = q.absmax.const_data_ptr<float>(),
      .nested_map = q.nested_map.const_data_ptr<float>(),
      .absmax_q = q.absmax_q.data_ptr<uint8_t>(),
      .absmax2 = q.absmax2.data_ptr<float>(),
      .B = B,
      .offset = q.offset,
  };
  if (device.is_cuda()) {
    OnCuda(op, q.absmax, [&](auto stream) { Nf4NestCuda(p, stream); });
  } else {
    Nf4NestCpu(p);
  }
  q.absmax = at::Tensor();
}

}  // namespace

Nf4Tensor Nf4Quantize(const at::Tensor& w, bool double_quant, FourBitType type) {
  const char* op = "Nf4Quantize";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(w.defined() && w.numel() > 0, op, ": the weight is empty");
  CheckTensor(op, "w", w, w.sizes(), w.scalar_type(), w.device());
  const Dtype dtype = WeightDtype(op, w.scalar_type(), true);
  const int64_t n = w.numel();
  Nf4Tensor q;
  q.shape = w.sizes().vec();
  q.codes = at::empty({(n + 1) / 2}, at::dtype(at::kByte).device(w.device()));
  q.absmax = at::empty({CeilDiv(n, kNf4Block)}, at::dtype(at::kFloat).device(w.device()));
  const bool nf4 = type == FourBitType::kNf4;
  q.code_map = MapTensor(nf4 ? kNf4Values : kFp4Values, 16, w.device());
  const Nf4QuantizeParams p = {
      .w = w.data_ptr(),
      .codes = q.codes.data_ptr<uint8_t>(),
      .absmax = q.absmax.data_ptr<float>(),
      .n = n,
      .table = nf4 ? MakeFourBitTable(kNf4Values) : MakeFourBitTable(kFp4Values),
  };
  if (w.is_cuda()) {
    OnCuda(op, w, [&](auto stream) { Nf4QuantizeCuda(p, dtype, stream); });
  } else {
    Nf4QuantizeCpu(p, dtype);
  }
  if (double_quant) Nest(op, q);
  return q;
}

int64_t Nf4RowStep(int64_t columns) {
  constexpr int64_t kGroup = kNf4Block * kNf4NestedBlock;
  return kGroup / std::gcd(columns, kGroup);
}

Nf4Tensor Nf4Rows(const Nf4Tensor& q, int64_t first, int64_t count) {
  TORCH_CHECK(q.shape.size() == 2 && first >= 0 && count > 0 && first + count <= q.shape[0], "Nf4Rows: rows ", first,
              " to ", first + count, " of a weight of ", q.shape);
  const int64_t columns = q.shape[1], begin = first * columns, n = count * columns;
  TORCH_CHECK(first % Nf4RowStep(columns) == 0, "Nf4Rows: row ", first, " is not a multiple of ", Nf4RowStep(columns));
  const int64_t block = begin / kNf4Block, blocks = CeilDiv(n, kNf4Block);
  Nf4Tensor rows = q;
  rows.shape = {count, columns};
  rows.codes = q.codes.narrow(0, begin / 2, (n + 1) / 2);
  if (q.nested) {
    rows.absmax_q = q.absmax_q.narrow(0, block, blocks);
    rows.absmax2 = q.absmax2.narrow(0, block / kNf4NestedBlock, CeilDiv(blocks, kNf4NestedBlock));
  } else {
    rows.absmax = q.absmax.narrow(0, block, blocks);
  }
  return rows;
}

void Nf4Dequantize(const Nf4Tensor& q, at::Tensor& out) {
  const char* op = "Nf4Dequantize";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = WeightDtype(op, out.scalar_type(), false);
  const int64_t n = out.numel(), B = CeilDiv(n, kNf4Block);
  const at::Device device = out.device();
  const bool rows = out.dim() == 2;
  const int64_t columns = rows ? out.size(1) : n;
  const int64_t row_stride =
      rows ? CheckRows(op, "out", out, out.sizes(), out.scalar_type(), device) : n;
  TORCH_CHECK(n < int64_t{1} << 32, op, ": ", n, " elements are too many for one matrix");
  if (!rows) CheckTensor(op, "out", out, out.sizes(), out.scalar_type(), device);
  CheckTensor(op, "codes", q.codes, {(n + 1) / 2}, at::kByte, device);
  CheckTensor(op, "code_map", q.code_map, {16}, at::kFloat, device);
  if (q.nested) {
    CheckTensor(op, "absmax_q", q.absmax_q, {B}, at::kByte, device);
    CheckTensor(op, "absmax2", q.absmax2, {CeilDiv(B, kNf4NestedBlock)}, at::kFloat, device);
    CheckTensor(op, "nested_map", q.nested_map, {256}, at::kFloat, device);
  } else {
    CheckTensor(op, "absmax", q.absmax, {B}, at::kFloat, device);
  }
  if (n == 0) return;
  const Nf4DequantizeParams p = {
      .codes = q.codes.const_data_ptr<uint8_t>(),
      .absmax_q = q.nested ? q.absmax_q.const_data_ptr<uint8_t>() : nullptr,
      .absmax2 = q.nested ? q.absmax2.const_data_ptr<float>() : nullptr,
      .absmax = q.nested ? nullptr : q.absmax.const_data_ptr<float>(),
      .code_map = q.code_map.const_data_ptr<float>(),
      .nested_map = q.nested ? q.nested_map.const_data_ptr<float>() : nullptr,
      .out = out.data_ptr(),
      .columns = columns,
      .row_stride = row_stride,
      .n = n,
      .offset = q.offset,
  };
  if (out.is_cuda()) {
    OnCuda(op, out, [&](auto stream) { Nf4DequantizeCuda(p, dtype, stream); });
  } else {
    Nf4DequantizeCpu(p, dtype);
  }
}

}  // namespace finetuned::kernels
