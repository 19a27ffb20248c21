#include "kernels/adamw.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cmath>

#include "kernels/adamw_params.h"
#include "kernels/blockwise8.h"
#include "kernels/dispatch.h"

namespace finetuned::kernels {
namespace {

AdamWScalars MakeScalars(const char* op, const AdamWOptions& o, bool bnb, at::Device device,
                         const at::Tensor& grad_scale, const at::Tensor& skip_flag) {
  TORCH_CHECK(o.step >= 1, op, ": step is ", o.step, ", expected at least 1");
  if (grad_scale.defined()) CheckTensor(op, "grad_scale", grad_scale, {1}, at::kFloat, device);
  if (skip_flag.defined()) CheckTensor(op, "skip_flag", skip_flag, {1}, at::kFloat, device);
  const double step = static_cast<double>(o.step);
  const double correction1 = 1.0 - std::pow(o.beta1, step);
  const double sqrt2 = std::sqrt(1.0 - std::pow(o.beta2, step));
  const float beta1 = static_cast<float>(o.beta1), beta2 = static_cast<float>(o.beta2);
  return {
      .beta1 = beta1,
      .beta2 = beta2,
      .one_minus_beta1 = bnb ? 1.0f - beta1 : static_cast<float>(1.0 - o.beta1),
      .one_minus_beta2 = bnb ? 1.0f - beta2 : static_cast<float>(1.0 - o.beta2),
      .step_size = static_cast<float>(bnb ? -o.lr * sqrt2 / correction1 : o.lr / correction1),
      .sqrt_correction2 = static_cast<float>(sqrt2),
      .eps = static_cast<float>(bnb ? o.eps * sqrt2 : o.eps),
      .decay = static_cast<float>(1.0 - o.lr * o.weight_decay),
      .bnb = bnb,
      .grad_scale = grad_scale.defined() ? grad_scale.const_data_ptr<float>() : nullptr,
      .skip = skip_flag.defined() ? skip_flag.const_data_ptr<float>() : nullptr,
  };
}

void CheckLengths(const char* op, size_t params, size_t grads, size_t states) {
  TORCH_CHECK(params == grads && params == states, op, ": lists differ in length: ", params,
              " params, ", grads, " grads, ", states, " states");
}

void CheckLike(const char* op, const char* name, const at::Tensor& t, const at::Tensor& param) {
  CheckTensor(op, name, t, param.sizes(), at::kFloat, param.device());
}

void Step32(const char* op, bool bnb, std::vector<at::Tensor>& params,
            const std::vector<at::Tensor>& grads, std::vector<at::Tensor>& m,
            std::vector<at::Tensor>& v, const AdamWOptions& options, const at::Tensor& grad_scale,
            const at::Tensor& skip_flag) {
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  CheckLengths(op, params.size(), grads.size(), m.size());
  CheckLengths(op, params.size(), grads.size(), v.size());
  if (params.empty()) return;
  const at::Device device = params[0].device();
  const AdamWScalars s = MakeScalars(op, options, bnb, device, grad_scale, skip_flag);
  std::vector<AdamWTensor> tensors;
  tensors.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    CheckTensor(op, "param", params[i], params[i].sizes(), at::kFloat, device);
    CheckLike(op, "grad", grads[i], params[i]);
    CheckLike(op, "m", m[i], params[i]);
    CheckLike(op, "v", v[i], params[i]);
    tensors.push_back({params[i].data_ptr<float>(), grads[i].const_data_ptr<float>(),
                       m[i].data_ptr<float>(), v[i].data_ptr<float>(), params[i].numel()});
  }
  if (device.is_cuda()) {
    OnCuda(op, params[0], [&](auto stream) { AdamWCuda(tensors, s, stream); });
  } else {
    AdamWCpu(tensors, s);
  }
}

// Both maps on a CUDA device, [2, 256]; made once per device and kept. Called by the one thread
// that owns the device.
const at::Tensor& DeviceMaps(at::Device device) {
  static std::vector<at::Tensor>& maps = *new std::vector<at::Tensor>();
  const size_t index = static_cast<size_t>(device.index());
  if (maps.size() <= index) maps.resize(index + 1);
  if (!maps[index].defined()) {
    at::Tensor host = at::empty({2, 256}, at::kFloat);
    std::copy_n(SignedDynamicMap().data(), 256, host.data_ptr<float>());
    std::copy_n(UnsignedDynamicMap().data(), 256, host.data_ptr<float>() + 256);
    maps[index] = host.to(device);
  }
  return maps[index];
}

}  // namespace

void AdamWStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
               std::vector<at::Tensor>& m, std::vector<at::Tensor>& v, const AdamWOptions& options,
               const at::Tensor& grad_scale, const at::Tensor& skip_flag) {
  Step32("AdamWStep", false, params, grads, m, v, options, grad_scale, skip_flag);
}

void AdamW32BnbStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
                    std::vector<at::Tensor>& m, std::vector<at::Tensor>& v,
                    const AdamWOptions& options, const at::Tensor& grad_scale,
                    const at::Tensor& skip_flag) {
  Step32("AdamW32BnbStep", true, params, grads, m, v, options, grad_scale, skip_flag);
}

Adam8bitState NewAdam8bitState(const at::Tensor& param) {
  const int64_t blocks = (param.numel() + kAdam8bitBlock - 1) / kAdam8bitBlock;
  const auto bytes = at::dtype(at::kByte).device(param.device());
  const auto floats = at::dtype(at::kFloat).device(param.device());
  return {at::zeros({param.numel()}, bytes), at::zeros({param.numel()}, bytes),
          at::zeros({blocks}, floats), at::zeros({blocks}, floats)};
}

void AdamW8bitStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
                   std::vector<Adam8bitState>& states, const AdamWOptions& options,
                   const at::Tensor& grad_scale, const at::Tensor& skip_flag) {
  const char* op = "AdamW8bitStep";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  CheckLengths(op, params.size(), grads.size(), states.size());
  if (params.empty()) return;
  const at::Device device = params[0].device();
  const AdamWScalars s = MakeScalars(op, options, true, device, grad_scale, skip_flag);
  std::vector<Adam8bitTensor> tensors;
  tensors.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const int64_t n = params[i].numel(), blocks = (n + kAdam8bitBlock - 1) / kAdam8bitBlock;
    const Adam8bitState& state = states[i];
    CheckTensor(op, "param", params[i], params[i].sizes(), at::kFloat, device);
    CheckLike(op, "grad", grads[i], params[i]);
    CheckTensor(op, "m_codes", state.m_codes, {n}, at::kByte, device);
    CheckTensor(op, "v_codes", state.v_codes, {n}, at::kByte, device);
    CheckTensor(op, "m_absmax", state.m_absmax, {blocks}, at::kFloat, device);
    CheckTensor(op, "v_absmax", state.v_absmax, {blocks}, at::kFloat, device);
    tensors.push_back({params[i].data_ptr<float>(), grads[i].const_data_ptr<float>(),
                       state.m_codes.data_ptr<uint8_t>(), state.v_codes.data_ptr<uint8_t>(),
                       state.m_absmax.data_ptr<float>(), state.v_absmax.data_ptr<float>(), n});
  }
  if (device.is_cuda()) {
    const float* maps = DeviceMaps(device).const_data_ptr<float>();
    OnCuda(op, params[0], [&](auto stream) { Adam8bitCuda(tensors, s, maps, maps + 256, stream); });
  } else {
    Adam8bitCpu(tensors, s);
  }
}

}  // namespace finetuned::kernels
