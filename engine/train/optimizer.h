#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/job/train_spec.h"
#include "engine/lora/adapter.h"
#include "kernels/adamw.h"

namespace finetuned::train {

// AdamW over an adapter: "adamw" (torch.optim.AdamW, float32 states) or "adamw_8bit" (bitsandbytes
// AdamW8bit: 8-bit states per LoRA matrix, float32 below 4096 elements).
class Optimizer {
 public:
  // The adapter must outlive the optimizer.
  Optimizer(const job::OptimizerOptions& options, lora::Adapter* adapter);

  // One update with number `step` (from 1), then refreshes the adapter's compute copies. grad_scale and
  // skip_flag as in kernels/adamw.h. Does not wait for the device.
  void Step(double learning_rate, int64_t step, const at::Tensor& grad_scale,
            const at::Tensor& skip_flag);

  // States as flat tensors with stable names: what a checkpoint keeps and Load fills.
  struct NamedTensor {
    std::string name;
    at::Tensor tensor;  // on the device
  };
  std::vector<NamedTensor> State() const;

  // A safetensors file with the tensors of State().
  absl::Status Save(const std::string& path) const;
  // INVALID_ARGUMENT names the file and the tensor that is missing or has another shape.
  absl::Status Load(const std::string& path);

 private:
  void Make8bitStates(const std::vector<at::Tensor>& matrices);

  const job::OptimizerOptions options_;
  lora::Adapter* adapter_;
  // float32 states: one flat tensor ("adamw"), or the small matrices ("adamw_8bit").
  std::vector<at::Tensor> params_, grads_, m_, v_;
  at::Tensor flat_m_, flat_v_;
  // 8-bit states, views of the flat tensors.
  std::vector<at::Tensor> params8_, grads8_;
  std::vector<kernels::Adam8bitState> states8_;
  at::Tensor codes_m_, codes_v_, absmax_m_, absmax_v_;
};

}  // namespace finetuned::train
