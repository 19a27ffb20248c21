#include "kernels/rope.h"

#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/rope_params.h"

namespace finetuned::kernels {

void RopeInPlace(at::Tensor& x_THE, const at::Tensor& position_ids_T, const at::Tensor& inv_freq,
                 int sign, const RopeOptions& options) {
  const char* op = "RopeInPlace";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, x_THE);
  TORCH_CHECK(x_THE.dim() == 3, op, ": x has shape ", x_THE.sizes(), ", expected [T, heads, head size]");
  const int64_t T = x_THE.size(0), H = x_THE.size(1), E = x_THE.size(2), R = 2 * inv_freq.numel();
  TORCH_CHECK(R <= E, op, ": inv_freq has ", inv_freq.numel(), " elements, expected at most half of the head size ", E);
  TORCH_CHECK(x_THE.stride(2) == 1 && (H == 1 || x_THE.stride(1) == E) &&
                  (T <= 1 || x_THE.stride(0) >= H * E),
              op, ": x has strides ", x_THE.strides(), ", expected [>= ", H * E, ", ", E, ", 1]");
  TORCH_CHECK(sign == 1 || sign == -1, op, ": sign is ", sign, ", expected 1 or -1");
  CheckTensor(op, "position_ids", position_ids_T, {T}, at::kInt, x_THE.device());
  CheckTensor(op, "inv_freq", inv_freq, {R / 2}, at::kFloat, x_THE.device());
  if (x_THE.numel() == 0 || R == 0) return;
  const RopeParams p = {
      .x = x_THE.data_ptr(),
      .position = position_ids_T.const_data_ptr<int32_t>(),
      .inv_freq = inv_freq.const_data_ptr<float>(),
      .T = T,
      .H = H,
      .E = E,
      .R = R,
      .row_stride = x_THE.stride(0),
      .sign = static_cast<float>(sign),
      .magnitude = static_cast<float>(options.magnitude),
      .interleaved = options.interleaved,
  };
  if (x_THE.is_cuda()) {
    OnCuda(op, x_THE, [&](auto stream) { RopeCuda(p, dtype, stream); });
  } else {
    RopeCpu(p, dtype);
  }
}

}  // namespace finetuned::kernels
