#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/preference/document_sums.h"
#include "engine/preference/pair_loss.h"
#include "engine/train/method.h"
#include "engine/train/reference.h"

namespace finetuned::train {

// Pairs of a chosen and a rejected answer, side by side in a micro-batch. The loss of a window is
// the mean over its micro-batches of their means over pairs (as TRL). The reference is the base
// with the adapter off: run beside the policy, or once before training (precompute_reference), or
// left out (reference_free). No dropout (as TRL). Measures TRL's metrics: loss, rewards/...,
// logps/..., logits/..., entropy, mean_token_accuracy.
class DpoMethod : public Method {
 public:
  explicit DpoMethod(const MethodInputs& inputs);

  absl::Status Prepare() override;
  double ReferencePasses() const override;
  at::Tensor AccumulateGradients(const Window& window) override;
  std::map<std::string, double> StepValues(const Window& window,
                                           const double* measured) const override;
  // Means over pairs, eval_tokens (targets) and eval_runtime beside them.
  std::map<std::string, double> Evaluate(int64_t step) override;

 private:
  // float64 [metrics] of a micro-batch of the dataset; grad_scale not 0: adds its gradients times that.
  at::Tensor Run(const data::TokenizedDataset& dataset, const data::PackedBatch& batch, double grad_scale);
  at::Tensor GradientOfTargets(const preference::PairLoss& loss,
                               const preference::TargetGroups& groups, const at::Tensor& ld_M,
                               double grad_scale) const;

  const MethodInputs in_;
  const job::DpoOptions& options_;
  const preference::PairLossOptions loss_;
  Reference reference_;
};

}  // namespace finetuned::train
