// AdamW in float32 and with 8-bit states, over lists of tensors. On CUDA one launch serves up to
// hundreds of tensors; nothing here waits for the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finetuned::kernels {

struct AdamWOptions {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;  // number of this update, counted from 1
};

inline constexpr int64_t kAdam8bitBlock = 256;     // elements per absmax of a state
inline constexpr int64_t kAdam8bitMinimum = 4096;  // smaller tensors keep float32 states

// In all three functions: params, grads and states are lists of equal length of contiguous float32
// tensors on one device. grad_scale, float32 [1], is multiplied into every gradient. skip_flag,
// float32 [1]: when not 0, nothing changes. Both may be undefined (1 and 0).

// torch.optim.AdamW: decay p *= 1 - lr * wd, then the update.
void AdamWStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
               std::vector<at::Tensor>& m, std::vector<at::Tensor>& v, const AdamWOptions& options,
               const at::Tensor& grad_scale, const at::Tensor& skip_flag);

// Quantized first and second moment of one parameter of n elements, B = ceil(n / 256).
struct Adam8bitState {
  at::Tensor m_codes;   // uint8 [n], signed dynamic map
  at::Tensor v_codes;   // uint8 [n], unsigned dynamic map
  at::Tensor m_absmax;  // float32 [B]
  at::Tensor v_absmax;  // float32 [B]
};

// The state before the first step, on param's device: codes of 0 and absmax 0, as bitsandbytes.
Adam8bitState NewAdam8bitState(const at::Tensor& param);

// bitsandbytes AdamW8bit for tensors of any size: blockwise 8-bit states, update with the moments
// before they are quantized again, decay after the update.
void AdamW8bitStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
                   std::vector<Adam8bitState>& states, const AdamWOptions& options,
                   const at::Tensor& grad_scale, const at::Tensor& skip_flag);

// What bitsandbytes AdamW8bit does to tensors below kAdam8bitMinimum elements: float32 states,
// update of the 8-bit kind.
void AdamW32BnbStep(std::vector<at::Tensor>& params, const std::vector<at::Tensor>& grads,
                    std::vector<at::Tensor>& m, std::vector<at::Tensor>& v,
                    const AdamWOptions& options, const at::Tensor& grad_scale,
                    const at::Tensor& skip_flag);

}  // namespace finetuned::kernels
