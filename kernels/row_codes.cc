#include "kernels/row_codes.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "kernels/codes8.h"
#include "kernels/dispatch.h"
#include "kernels/row_codes_params.h"

namespace finetuned::kernels {
namespace {

constexpr float kInt8Limit = 127.0f;

// Not in a step: whole tensors at a time.
RowCodes QuantizeInt8(const at::Tensor& w_OI) {
  const at::Tensor w = w_OI.to(at::kHalf).to(at::kFloat);
  const at::Tensor absmax = w.abs().amax({1});
  // 127.0 / tensor in Python, which bitsandbytes' CPU backend writes, is a product with the reciprocal.
  at::Tensor codes = w * absmax.reciprocal().mul_(kInt8Limit).unsqueeze(1);
  codes = at::where(absmax.unsqueeze(1) > 0, codes.round_(), 0.0f).to(at::kChar);
  return {codes, absmax * (1.0f / kInt8Limit)};
}

}  // namespace

RowCodes QuantizeToRowCodes(const at::Tensor& w_OI, at::ScalarType codes) {
  const char* op = "QuantizeToRowCodes";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(w_OI.dim() == 2 && w_OI.numel() > 0, op, ": the weight has shape ", w_OI.sizes(), ", expected [O, I]");
  TORCH_CHECK(codes == at::kChar || codes == at::kFloat8_e4m3fn, op, ": codes are ", codes,
              ", expected Char or Float8_e4m3fn");
  if (codes == at::kChar) return QuantizeInt8(w_OI);
  const at::Tensor w = w_OI.scalar_type() == at::kHalf || !w_OI.is_cuda() ? w_OI.to(at::kFloat) : w_OI;
  RowCodes out = {at::empty(w.sizes(), w.options().dtype(codes)), at::empty({w.size(0)}, w.options().dtype(at::kFloat))};
  QuantizeRows(w, out.codes_OI, out.scale_O);
  return out;
}

void DequantizeRowCodes(const RowCodes& w, at::Tensor& out_OI) {
  const char* op = "DequantizeRowCodes";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const bool narrow = out_OI.scalar_type() == at::kBFloat16;
  TORCH_CHECK(narrow || out_OI.scalar_type() == at::kFloat, op, ": out is ", out_OI.scalar_type(),
              ", expected Float or BFloat16");
  const Dtype dtype = narrow ? Dtype::kBFloat16 : Dtype::kFloat32;
  TORCH_CHECK(w.codes_OI.defined() && w.codes_OI.dim() == 2, op, ": codes are not a matrix");
  const at::ScalarType type = w.codes_OI.scalar_type();
  TORCH_CHECK(type == at::kChar || type == at::kFloat8_e4m3fn, op, ": codes are ", type,
              ", expected Char or Float8_e4m3fn");
  const int64_t O = w.codes_OI.size(0), I = w.codes_OI.size(1);
  CheckTensor(op, "codes", w.codes_OI, {O, I}, type, out_OI.device());
  CheckTensor(op, "scale", w.scale_O, {O}, at::kFloat, out_OI.device());
  const int64_t stride = CheckRows(op, "out", out_OI, {O, I}, out_OI.scalar_type(), out_OI.device());
  if (out_OI.numel() == 0) return;
  const RowCodesParams p = {
      .codes = w.codes_OI.const_data_ptr(),
      .scale = w.scale_O.const_data_ptr<float>(),
      .out = out_OI.data_ptr(),
      .out_stride = stride,
      .O = O,
      .I = I,
  };
  const bool fp8 = type == at::kFloat8_e4m3fn;
  if (out_OI.is_cuda()) {
    OnCuda(op, out_OI, [&](auto stream) { DequantizeRowCodesCuda(p, dtype, fp8, stream); });
  } else {
    DequantizeRowCodesCpu(p, dtype, fp8);
  }
}

}  // namespace finetuned::kernels
