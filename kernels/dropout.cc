#include "kernels/dropout.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/dropout_params.h"

namespace finetuned::kernels {

void DropoutForward(const at::Tensor& x, double p, uint64_t seed, uint64_t offset, at::Tensor& y,
                    int64_t first) {
  const char* op = "DropoutForward";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  TORCH_CHECK(p >= 0 && p < 1, op, ": p is ", p, ", expected 0 <= p < 1");
  TORCH_CHECK(x.defined() && (x.is_cpu() || x.is_cuda()) &&
                  (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
              op, ": x must be a float32 or bfloat16 tensor on CPU or CUDA");
  CheckTensor(op, "x", x, x.sizes(), x.scalar_type(), x.device());
  CheckTensor(op, "y", y, x.sizes(), x.scalar_type(), x.device());
  TORCH_CHECK(first >= 0 && first % 4 == 0, op, ": first is ", first, ", expected a multiple of 4");
  if (x.numel() == 0) return;
  const Dtype dtype = x.scalar_type() == at::kFloat ? Dtype::kFloat32 : Dtype::kBFloat16;
  const double threshold = std::min(std::nearbyint(std::ldexp(p, 32)), 4294967295.0);
  const DropoutParams params = {
      .x = x.data_ptr(),
      .y = y.data_ptr(),
      .n = x.numel(),
      .seed = seed,
      .offset = offset,
      .first_group = static_cast<uint64_t>(first) / 4,
      .threshold = static_cast<uint32_t>(threshold),
      .scale = static_cast<float>(1.0 / (1.0 - p)),
  };
  if (x.is_cuda()) {
    OnCuda(op, x, [&](auto stream) { DropoutCuda(params, dtype, stream); });
  } else {
    DropoutCpu(params, dtype);
  }
}

}  // namespace finetuned::kernels
