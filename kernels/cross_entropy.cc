#include "kernels/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include "kernels/cross_entropy_params.h"
#include "kernels/dispatch.h"

namespace finetuned::kernels {
namespace {

void CheckLabels(const char* op, const CrossEntropyParams& p) {
  for (int64_t c = 0; c < p.C; ++c) {
    TORCH_CHECK(p.labels[c] < p.V, op, ": label ", p.labels[c], " of row ", c,
                " is outside the vocabulary of ", p.V);
  }
}

}  // namespace

void CrossEntropyChunk(at::Tensor& logits_CV, const at::Tensor& labels_C, const at::Tensor& scale,
                       double label_smoothing, bool write_grad, at::Tensor& loss_C,
                       const at::Tensor& entropy_C, const at::Tensor& correct_C,
                       bool narrow_grad, const at::Tensor& d_entropy_C, double softcap) {
  const char* op = "CrossEntropyChunk";
  RECORD_FUNCTION(op, c10::ArrayRef<const c10::IValue>{});
  const Dtype dtype = DtypeOf(op, logits_CV);
  TORCH_CHECK(logits_CV.dim() == 2, op, ": logits has shape ", logits_CV.sizes(),
              ", expected [C, V]");
  TORCH_CHECK(label_smoothing >= 0 && label_smoothing < 1, op, ": label_smoothing is ",
              label_smoothing, ", expected 0 <= label_smoothing < 1");
  TORCH_CHECK(!narrow_grad || (logits_CV.is_cuda() && dtype == Dtype::kFloat32), op,
              ": a narrow gradient needs float32 logits on CUDA");
  const at::Device device = logits_CV.device();
  const int64_t C = logits_CV.size(0);
  CheckTensor(op, "logits", logits_CV, logits_CV.sizes(), logits_CV.scalar_type(), device);
  CheckTensor(op, "labels", labels_C, {C}, at::kInt, device);
  CheckTensor(op, "loss", loss_C, {C}, at::kFloat, device);
  const int64_t scales = scale.defined() && scale.numel() == 1 ? 1 : C;
  CheckTensor(op, "scale", scale, {scales}, at::kFloat, device);
  if (entropy_C.defined()) CheckTensor(op, "entropy", entropy_C, {C}, at::kFloat, device);
  if (correct_C.defined()) CheckTensor(op, "correct", correct_C, {C}, at::kByte, device);
  if (d_entropy_C.defined()) {
    TORCH_CHECK(write_grad && entropy_C.defined(), op, ": d_entropy needs write_grad and entropy");
    CheckTensor(op, "d_entropy", d_entropy_C, {C}, at::kFloat, device);
  }
  if (logits_CV.numel() == 0) return;
  const CrossEntropyParams p = {
      .logits = logits_CV.data_ptr(),
      .labels = labels_C.const_data_ptr<int32_t>(),
      .scale = scale.const_data_ptr<float>(),
      .scale_stride = scales == 1 ? 0 : 1,
      .loss = loss_C.data_ptr<float>(),
      .entropy = entropy_C.defined() ? entropy_C.data_ptr<float>() : nullptr,
      .correct = correct_C.defined() ? correct_C.data_ptr<uint8_t>() : nullptr,
      .C = C,
      .V = logits_CV.size(1),
      .label_smoothing = label_smoothing,
      .write_grad = write_grad,
      .narrow_grad = narrow_grad,
      .d_entropy = d_entropy_C.defined() ? d_entropy_C.const_data_ptr<float>() : nullptr,
      .softcap = static_cast<float>(softcap),
  };
  if (logits_CV.is_cuda()) {
    OnCuda(op, logits_CV, [&](auto stream) { CrossEntropyCuda(p, dtype, stream); });
  } else {
    CheckLabels(op, p);
    CrossEntropyCpu(p, dtype);
  }
}

at::Tensor NarrowGradient(const at::Tensor& logits_CV) {
  return logits_CV.view(at::kBFloat16).narrow(1, 0, logits_CV.size(1));
}

}  // namespace finetuned::kernels
