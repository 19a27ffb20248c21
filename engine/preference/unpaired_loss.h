// Losses of single answers that are desirable or not (KTO), with their gradients by hand.
// Definitions: TRL 1.16, trainer/kto_trainer.py. Legend: N answers of a micro-batch; tensors
// float64 on one device.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::preference {

struct UnpairedLossOptions {
  double beta = 0.1;  // > 0
  double desirable_weight = 1, undesirable_weight = 1;
  bool uses_kl = true;  // "kto"; false: "apo_zero_unpaired"
};

struct UnpairedLoss {
  at::Tensor loss;           // [] weighted losses, averaged over all N
  at::Tensor d_log_probs_N;  // its gradient
};

// log_probs_N, reference_N: sums over the targets of an answer. desirable_N: 1 or 0. kl: [], at
// least 0; no gradient. Batches of one class are as good as any. Waits for nothing.
UnpairedLoss ComputeUnpairedLoss(const at::Tensor& log_probs_N, const at::Tensor& reference_N,
                                 const at::Tensor& desirable_N, const at::Tensor& kl,
                                 const UnpairedLossOptions& options);

}  // namespace finetuned::preference
