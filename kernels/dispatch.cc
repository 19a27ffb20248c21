#include "kernels/dispatch.h"

namespace finetuned::kernels {

namespace {

void CheckKind(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
               at::ScalarType dtype, at::Device device) {
  TORCH_CHECK(t.defined(), op, ": ", name, " is undefined");
  TORCH_CHECK(t.sizes() == shape, op, ": ", name, " has shape ", t.sizes(), ", expected ", shape);
  TORCH_CHECK(t.scalar_type() == dtype, op, ": ", name, " is ", t.scalar_type(), ", expected ",
              dtype);
  TORCH_CHECK(t.device() == device, op, ": ", name, " is on ", t.device(), ", expected ", device);
}

}  // namespace

void CheckTensor(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                 at::ScalarType dtype, at::Device device) {
  CheckKind(op, name, t, shape, dtype, device);
  TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous, strides are ", t.strides());
}

int64_t CheckRows(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                  at::ScalarType dtype, at::Device device) {
  CheckKind(op, name, t, shape, dtype, device);
  if (t.numel() == 0) return shape[1];
  TORCH_CHECK((t.size(1) == 1 || t.stride(1) == 1) && (t.size(0) == 1 || t.stride(0) >= t.size(1)), op,
              ": ", name, " has strides ", t.strides(), ", expected [>= ", t.size(1), ", 1]");
  return t.size(0) == 1 ? t.size(1) : t.stride(0);
}

Dtype DtypeOf(const char* op, const at::Tensor& t) {
  TORCH_CHECK(t.defined(), op, ": undefined tensor");
  TORCH_CHECK(t.is_cpu() || t.is_cuda(), op, ": device ", t.device(), " is neither CPU nor CUDA");
  switch (t.scalar_type()) {
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kDouble:
      if (t.is_cpu()) return Dtype::kFloat64;
      break;
    case at::kBFloat16:
      if (t.is_cuda()) return Dtype::kBFloat16;
      break;
    default:
      break;
  }
  TORCH_CHECK(false, op, ": ", t.scalar_type(), " on ", t.device(),
              " is not supported (CPU: float32, float64; CUDA: float32, bfloat16)");
}

}  // namespace finetuned::kernels
