#include "kernels/head_norm.h"

#include <ATen/record_function.h>

#include <vector>

#include "kernels/dispatch.h"
#include "kernels/head_norm_params.h"

namespace finetuned::kernels {
namespace {

// Elements from token to token of a tensor of this shape.
int64_t CheckHeads(const char* op, const char* name, const at::Tensor& x, const at::Tensor& like) {
  TORCH_CHECK(x.defined() && x.dim() == 3 && x.sizes() == like.sizes(), op, ": ", name, " has shape ", x.sizes(),
              ", expected [T, heads, head size] ", like.sizes());
  TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(), op, ": ", name, " is ",
              x.scalar_type(), " on ", x.device(), ", x is ", like.scalar_type(), " on ", like.device());
  const int64_t H = x.size(1), E = x.size(2);
  TORCH_CHECK((E == 1 || x.stride(2) == 1) && (H == 1 || x.stride(1) == E) && (x.size(0) <= 1 || x.stride(0) >= H * E),
              op, ": ", name, " has strides ", x.strides(), ", expected [>= ", H * E, ", ", E, ", 1]");
  return x.size(0) <= 1 ? H * E : x.stride(0);
}

HeadNormParams Common(const char* op, const at::Tensor& x, const at::Tensor& w, const HeadNormOptions& options,
                      const at::Tensor& out) {
  HeadNormParams p = {};
  p.x_stride = CheckHeads(op, "x", x, x);
  p.out_stride = CheckHeads(op, "the result", out, x);
  p.T = x.size(0);
  p.H = x.size(1);
  p.E = x.size(2);
  p.w_is_float32 = x.scalar_type() == at::kBFloat16 && w.scalar_type() == at::kFloat;
  const bool per_head = w.dim() == 2;
  const std::vector<int64_t> shape = per_head ? std::vector<int64_t>{p.H, p.E} : std::vector<int64_t>{p.E};
  CheckTensor(op, "w", w, shape, p.w_is_float32 ? at::kFloat : x.scalar_type(), x.device());
  p.w_stride = per_head ? p.E : 0;
  p.x = x.data_ptr();
  p.w = w.data_ptr();
  p.out = out.data_ptr();
  p.eps = options.eps;
  p.center = options.center;
  return p;
}

}  // namespace

void HeadNormForward(const at::Tensor& x_THE, const at::Tensor& w, const HeadNormOptions& options, at::Tensor& y_THE) {
  const char* op = "HeadNormForward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_THE);
  const HeadNormParams p = Common(op, x_THE, w, options, y_THE);
  if (x_THE.numel() == 0) return;
  if (x_THE.is_cuda()) {
    OnCuda(op, x_THE, [&](auto stream) { HeadNormForwardCuda(p, dtype, stream); });
  } else {
    HeadNormForwardCpu(p, dtype);
  }
}

void HeadNormBackward(const at::Tensor& dy_THE, const at::Tensor& x_THE, const at::Tensor& w,
                      const HeadNormOptions& options, bool accumulate, at::Tensor& dx_THE) {
  const char* op = "HeadNormBackward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_THE);
  HeadNormParams p = Common(op, x_THE, w, options, dx_THE);
  p.dy_stride = CheckHeads(op, "dy", dy_THE, x_THE);
  p.dy = dy_THE.data_ptr();
  p.accumulate = accumulate;
  if (x_THE.numel() == 0) return;
  if (x_THE.is_cuda()) {
    OnCuda(op, x_THE, [&](auto stream) { HeadNormBackwardCuda(p, dtype, stream); });
  } else {
    HeadNormBackwardCpu(p, dtype);
  }
}

}  // namespace finetuned::kernels
