#include "kernels/finite.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "kernels/dispatch.h"
#include "kernels/finite_params.h"

namespace finetuned::kernels {

int64_t NormPartials(const std::vector<NormTensor>& tensors) {
  int64_t count = 0;
  for (const NormTensor& t : tensors) count += (t.n + kNormElements - 1) / kNormElements;
  return count;
}

void GradNormAndScale(const std::vector<at::Tensor>& grads, double max_norm, at::Tensor& norm_out,
                      at::Tensor& scale_out, at::Tensor& skip_out) {
  const char* op = "GradNormAndScale";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  DtypeOf(op, norm_out);
  const at::Device device = norm_out.device();
  CheckTensor(op, "norm_out", norm_out, {1}, at::kFloat, device);
  CheckTensor(op, "scale_out", scale_out, {1}, at::kFloat, device);
  CheckTensor(op, "skip_out", skip_out, {1}, at::kFloat, device);
  std::vector<NormTensor> tensors;
  tensors.reserve(grads.size());
  for (const at::Tensor& g : grads) {
    CheckTensor(op, "grad", g, g.sizes(), at::kFloat, device);
    tensors.push_back({g.const_data_ptr<float>(), g.numel()});
  }
  const NormOutputs out = {norm_out.data_ptr<float>(), scale_out.data_ptr<float>(),
                           skip_out.data_ptr<float>(), max_norm};
  if (device.is_cuda()) {
    const at::Tensor partials = at::empty({NormPartials(tensors)}, norm_out.options());
    float* scratch = partials.data_ptr<float>();
    OnCuda(op, norm_out, [&](auto stream) { GradNormCuda(tensors, scratch, out, stream); });
  } else {
    GradNormCpu(tensors, out);
  }
}

}  // namespace finetuned::kernels
