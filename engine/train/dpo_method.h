#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/preference/document_sums.h"
#include "engine/preference/pair_loss.h"
#include "engine/train/method.h"

namespace finetuned::train {

// Pairs of a chosen and a rejected answer, side by side in a micro-batch. The loss of a window is
// the mean over its micro-batches of their means over pairs (as TRL). The reference is the base
// with the adapter off: run beside the policy, or once before training (precompute_reference), or
// left out (reference_free). No dropout (as TRL). Measures TRL's metrics: loss, rewards/...,
// logps/..., logits/..., entropy, mean_token_accuracy.
class DpoMethod : public Method {
 public:
  explicit DpoMethod(const MethodInputs& inputs);

  // With precompute_reference: fills or reads state_dir/reference-train and reference-eval.
  absl::Status Prepare() override;
  at::Tensor AccumulateGradients(const Window& window) override;
  std::map<std::string, double> StepValues(const Window& window,
                                           const double* measured) const override;
  // Means over pairs, eval_tokens (targets) and eval_runtime beside them.
  std::map<std::string, double> Evaluate() override;

 private:
  // Sums of the reference's log probabilities, by row of a dataset.
  using Table = std::optional<std::vector<double>>;

  // float64 [metrics] of a micro-batch; grad_scale not 0: adds its gradients times that.
  at::Tensor Run(const data::PackedBatch& batch, const Table& reference, double grad_scale);
  at::Tensor ReferenceSums(const data::PackedBatch& batch, const model::DeviceBatch& on_device,
                           const preference::TargetGroups& groups, const Table& table);
  at::Tensor GradientOfTargets(const preference::PairLoss& loss,
                               const preference::TargetGroups& groups, const at::Tensor& ld_M,
                               double grad_scale) const;
  absl::Status Precompute(const data::TokenizedDataset& dataset, const std::string& name,
                          Table* table);

  const MethodInputs in_;
  const job::DpoOptions& options_;
  const preference::PairLossOptions loss_;
  Table train_reference_, eval_reference_;
};

}  // namespace finetuned::train
