#include "kernels/codes8.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>

#include "kernels/codes8_params.h"
#include "kernels/dispatch.h"

namespace finetuned::kernels {
namespace {

bool IsFp8(const char* op, const at::Tensor& codes) {
  TORCH_CHECK(codes.defined(), op, ": codes are undefined");
  const at::ScalarType type = codes.scalar_type();
  TORCH_CHECK(type == at::kFloat8_e4m3fn || type == at::kChar, op, ": codes are ", type,
              ", expected Float8_e4m3fn or Char");
  return type == at::kFloat8_e4m3fn;
}

// The truth: the values of the codes, multiplied.
void MultiplyOnCpu(const at::Tensor& a, const at::Tensor& scale_m, const at::Tensor& b,
                   const at::Tensor& scale_n, at::Tensor& y) {
  const at::Tensor left = a.to(at::kFloat) * scale_m.unsqueeze(1), right = b.to(at::kFloat) * scale_n.unsqueeze(1);
  at::mm_out(y, left, right.t());
}

#ifdef FINETUNED_HAVE_CUDA
void MultiplyInt8(const char* op, const at::Tensor& a, const at::Tensor& scale_m, const at::Tensor& b,
                  const at::Tensor& scale_n, const at::Tensor& sums, at::Tensor& y, int64_t y_stride) {
  const int64_t M = a.size(0), K = a.size(1), N = b.size(0);
  TORCH_CHECK(sums.defined() && sums.numel() >= Codes8Rows(1) * N, op, ": sums have ", sums.defined() ? sums.numel() : 0,
              " elements, at least ", Codes8Rows(1) * N, " are needed");
  const int64_t at_once = sums.numel() / N;
  const Dtype dtype = DtypeOf(op, y);
  for (int64_t first = 0; first < M; first += at_once) {
    const int64_t rows = std::min(at_once, M - first);
    // The last rows of a longer matrix are multiplied again rather than fewer than cuBLAS takes.
    const int64_t begin = std::max<int64_t>(0, std::min(first, M - Codes8Rows(rows)));
    const int64_t taken = Codes8Rows(first + rows - begin);
    const at::Tensor some = a.as_strided({taken, K}, {K, 1}, a.storage_offset() + begin * K);
    at::Tensor product = sums.narrow(0, 0, taken * N).view({taken, N});
    at::_int_mm_out(product, some, b.t());
    const ScaleSumsParams p = {
        .sums = product.const_data_ptr<int32_t>() + (first - begin) * N,
        .scale_m = scale_m.const_data_ptr<float>() + first,
        .scale_n = scale_n.const_data_ptr<float>(),
        .y = static_cast<char*>(y.data_ptr()) + first * y_stride * DtypeBytes(dtype),
        .y_stride = y_stride,
        .M = rows,
        .N = N,
    };
    OnCuda(op, y, [&](auto stream) { ScaleSumsCuda(p, dtype, stream); });
  }
}
#endif

}  // namespace

float Codes8Limit(at::ScalarType codes) { return codes == at::kFloat8_e4m3fn ? 448.0f : 127.0f; }

void QuantizeRows(const at::Tensor& x_MK, at::Tensor& codes_MK, at::Tensor& scale_M) {
  const char* op = "QuantizeRows";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_MK);
  TORCH_CHECK(dtype != Dtype::kFloat64, op, ": float64 is not supported");
  TORCH_CHECK(x_MK.dim() == 2, op, ": x has shape ", x_MK.sizes(), ", expected [M, K]");
  const bool fp8 = IsFp8(op, codes_MK);
  const int64_t M = x_MK.size(0), K = x_MK.size(1);
  const int64_t stride = CheckRows(op, "x", x_MK, {M, K}, x_MK.scalar_type(), x_MK.device());
  CheckTensor(op, "codes", codes_MK, {M, K}, codes_MK.scalar_type(), x_MK.device());
  CheckTensor(op, "scale", scale_M, {M}, at::kFloat, x_MK.device());
  if (x_MK.numel() == 0) return;
  const QuantizeRowsParams p = {
      .x = x_MK.const_data_ptr(),
      .stride = stride,
      .codes = codes_MK.data_ptr(),
      .scale = scale_M.data_ptr<float>(),
      .M = M,
      .K = K,
      .limit = Codes8Limit(codes_MK.scalar_type()),
  };
  if (x_MK.is_cuda()) {
    OnCuda(op, x_MK, [&](auto stream) { QuantizeRowsCuda(p, dtype, fp8, stream); });
  } else {
    QuantizeRowsCpu(p, fp8);
  }
}

void Nf4ToCodes(const Nf4Tensor& q, const at::Tensor& scale, bool transposed, at::Tensor& codes) {
  const char* op = "Nf4ToCodes";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const bool fp8 = IsFp8(op, codes);
  TORCH_CHECK(q.shape.size() == 2, op, ": the weight has ", q.shape.size(), " dimensions, expected 2");
  const int64_t O = q.shape[0], I = q.shape[1], B = (O * I + kNf4Block - 1) / kNf4Block;
  const at::Device device = codes.device();
  const std::vector<int64_t> shape = transposed ? std::vector<int64_t>{I, O} : std::vector<int64_t>{O, I};
  const int64_t stride = CheckRows(op, "codes", codes, shape, codes.scalar_type(), device);
  CheckTensor(op, "scale", scale, {transposed ? I : O}, at::kFloat, device);
  CheckTensor(op, "nf4 codes", q.codes, {(O * I + 1) / 2}, at::kByte, device);
  CheckTensor(op, "absmax", q.nested ? q.absmax_q : q.absmax, {B}, q.nested ? at::kByte : at::kFloat, device);
  const Nf4ToCodesParams p = {
      .nf4 = q.codes.const_data_ptr<uint8_t>(),
      .absmax_q = q.nested ? q.absmax_q.const_data_ptr<uint8_t>() : nullptr,
      .absmax2 = q.nested ? q.absmax2.const_data_ptr<float>() : nullptr,
      .absmax = q.nested ? nullptr : q.absmax.const_data_ptr<float>(),
      .code_map = q.code_map.const_data_ptr<float>(),
      .nested_map = q.nested ? q.nested_map.const_data_ptr<float>() : nullptr,
      .offset = q.offset,
      .scale = scale.const_data_ptr<float>(),
      .codes = codes.data_ptr(),
      .stride = stride,
      .O = O,
      .I = I,
      .transposed = transposed,
      .limit = Codes8Limit(codes.scalar_type()),
  };
  if (codes.is_cuda()) {
    OnCuda(op, codes, [&](auto stream) { Nf4ToCodesCuda(p, fp8, stream); });
  } else {
    Nf4ToCodesCpu(p, fp8);
  }
}

void MultiplyCodes(const at::Tensor& a_MK, const at::Tensor& scale_M, const at::Tensor& b_NK,
                   const at::Tensor& scale_N, at::Tensor sums, at::Tensor& y_MN) {
  const char* op = "MultiplyCodes";
  const bool fp8 = IsFp8(op, a_MK);
  TORCH_CHECK(a_MK.dim() == 2 && b_NK.dim() == 2, op, ": a has shape ", a_MK.sizes(), ", b ", b_NK.sizes());
  const int64_t M = a_MK.size(0), K = a_MK.size(1), N = b_NK.size(0);
  const at::Device device = a_MK.device();
  TORCH_CHECK(K % kCodes8Align == 0 && N % kCodes8Align == 0, op, ": K is ", K, " and N ", N,
              ", expected multiples of ", kCodes8Align);
  CheckTensor(op, "a", a_MK, {M, K}, a_MK.scalar_type(), device);
  CheckTensor(op, "b", b_NK, {N, K}, a_MK.scalar_type(), device);
  CheckTensor(op, "scale of a", scale_M, {M}, at::kFloat, device);
  CheckTensor(op, "scale of b", scale_N, {N}, at::kFloat, device);
  const int64_t y_stride = CheckRows(op, "y", y_MN, {M, N}, y_MN.scalar_type(), device);
  TORCH_CHECK(y_stride % 8 == 0, op, ": rows of y are ", y_stride, " elements apart, expected a multiple of 8");
  if (y_MN.numel() == 0) return;
  if (!a_MK.is_cuda()) return MultiplyOnCpu(a_MK, scale_M, b_NK, scale_N, y_MN);
#ifdef FINETUNED_HAVE_CUDA
  if (!fp8) return MultiplyInt8(op, a_MK, scale_M, b_NK, scale_N, sums, y_MN, y_stride);
  at::_scaled_mm_out(y_MN, a_MK, b_NK.t(), scale_M.view({M, 1}), scale_N.view({1, N}), {}, {}, y_MN.scalar_type(),
                     /*use_fast_accum=*/true);
#endif
}

}  // namespace finetuned::kernels
