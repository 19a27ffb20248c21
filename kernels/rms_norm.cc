#include "kernels/rms_norm.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/rms_norm_params.h"

namespace finetuned::kernels {
namespace {

// The weight has x's dtype, or is float32 beside bfloat16.
bool CheckWeight(const char* op, const at::Tensor& w_D, const at::Tensor& x_TD) {
  const bool mixed = x_TD.scalar_type() == at::kBFloat16 && w_D.scalar_type() == at::kFloat;
  CheckTensor(op, "w", w_D, {x_TD.size(1)}, mixed ? at::kFloat : x_TD.scalar_type(), x_TD.device());
  return mixed;
}

at::ScalarType StatType(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// delta, sum: both or neither.
void Forward(const char* op, const at::Tensor& x_TD, const at::Tensor* delta_TD,
             const at::Tensor& w_D, double eps, at::Tensor* sum_TD, at::Tensor& y_TD,
             at::Tensor& rstd_T) {
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_TD);
  TORCH_CHECK(x_TD.dim() == 2, op, ": x has shape ", x_TD.sizes(), ", expected [T, D]");
  CheckTensor(op, "x", x_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  if (delta_TD) {
    CheckTensor(op, "delta", *delta_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
    CheckTensor(op, "sum", *sum_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  }
  const bool mixed = CheckWeight(op, w_D, x_TD);
  const int64_t y_stride = CheckRows(op, "y", y_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  CheckTensor(op, "rstd", rstd_T, {x_TD.size(0)}, StatType(x_TD), x_TD.device());
  if (x_TD.numel() == 0) return;
  const RmsNormForwardParams p = {
      .x = x_TD.data_ptr(),
      .delta = delta_TD ? delta_TD->data_ptr() : nullptr,
      .sum = sum_TD ? sum_TD->data_ptr() : nullptr,
      .w = w_D.data_ptr(),
      .y = y_TD.data_ptr(),
      .y_stride = y_stride,
      .rstd = rstd_T.data_ptr(),
      .T = x_TD.size(0),
      .D = x_TD.size(1),
      .eps = eps,
      .w_is_float32 = mixed,
  };
  if (x_TD.is_cuda()) {
    OnCuda(op, x_TD, [&](auto stream) { RmsNormForwardCuda(p, dtype, stream); });
  } else {
    RmsNormForwardCpu(p, dtype);
  }
}

}  // namespace

void RmsNormForward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                    at::Tensor& rstd_T) {
  Forward("RmsNormForward", x_TD, nullptr, w_D, eps, nullptr, y_TD, rstd_T);
}

void AddRmsNormForward(const at::Tensor& x_TD, const at::Tensor& delta_TD, const at::Tensor& w_D,
                       double eps, at::Tensor& sum_TD, at::Tensor& y_TD, at::Tensor& rstd_T) {
  Forward("AddRmsNormForward", x_TD, &delta_TD, w_D, eps, &sum_TD, y_TD, rstd_T);
}

void RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                     const at::Tensor& rstd_T, bool accumulate, at::Tensor& dx_TD) {
  const char* op = "RmsNormBackward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_TD);
  TORCH_CHECK(x_TD.dim() == 2, op, ": x has shape ", x_TD.sizes(), ", expected [T, D]");
  CheckTensor(op, "x", x_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  const int64_t dy_stride =
      CheckRows(op, "dy", dy_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  const int64_t dx_stride =
      CheckRows(op, "dx", dx_TD, x_TD.sizes(), x_TD.scalar_type(), x_TD.device());
  CheckTensor(op, "rstd", rstd_T, {x_TD.size(0)}, StatType(x_TD), x_TD.device());
  const bool mixed = CheckWeight(op, w_D, x_TD);
  if (x_TD.numel() == 0) return;
  const RmsNormBackwardParams p = {
      .dy = dy_TD.data_ptr(),
      .x = x_TD.data_ptr(),
      .w = w_D.data_ptr(),
      .rstd = rstd_T.data_ptr(),
      .dx = dx_TD.data_ptr(),
      .dy_stride = dy_stride,
      .dx_stride = dx_stride,
      .T = x_TD.size(0),
      .D = x_TD.size(1),
      .accumulate = accumulate,
      .w_is_float32 = mixed,
  };
  if (x_TD.is_cuda()) {
    OnCuda(op, x_TD, [&](auto stream) { RmsNormBackwardCuda(p, dtype, stream); });
  } else {
    RmsNormBackwardCpu(p, dtype);
  }
}

RmsNormTile ChooseRmsNormTile(int64_t D, int64_t element_bytes, bool aligned) {
  if (!aligned || D * element_bytes % 16 != 0) return {.threads = 256, .vectors = 0};
  const int64_t row_vectors = D * element_bytes / 16;
  for (int threads : {32, 256}) {
    for (int vectors : {1, 2, 4}) {
      if (row_vectors <= int64_t{threads} * vectors) return {threads, vectors};
    }
  }
  return {.threads = 256, .vectors = 0};
}

}  // namespace finetuned::kernels
