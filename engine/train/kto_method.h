#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/preference/unpaired_loss.h"
#include "engine/train/method.h"
#include "engine/train/reference.h"

namespace finetuned::train {

// Single answers that are desirable or not. The loss of a window is the mean over its micro-batches
// of their means over answers (as TRL); the reference is the base with the adapter off; no dropout.
// The KL estimate is the mean log ratio of prompts with answers of other rows
// (data::MismatchedBatches), never below 0: over each micro-batch as TRL, but over the whole window
// for micro-batches of one answer, which TRL refuses. Measures TRL's metrics: loss, kl,
// rewards/..., logps/..., logits/..., entropy; those of a class are means over the micro-batches
// that hold it, and absent where none does.
class KtoMethod : public Method {
 public:
  explicit KtoMethod(const MethodInputs& inputs);

  // Warns when the weights do not balance the classes (KTO_WEIGHTS) or a class has no row
  // (ONE_SIDED_LABELS).
  absl::Status Prepare() override;
  double ReferencePasses() const override;
  at::Tensor AccumulateGradients(const Window& window) override;
  std::map<std::string, double> StepValues(const Window& window,
                                           const double* measured) const override;
  // Means over answers, eval_tokens (targets) and eval_runtime beside them.
  std::map<std::string, double> Evaluate(int64_t step) override;

 private:
  void AdviseWeights() const;
  // The KL estimate of each micro-batch of the share: float64 [], on the device.
  std::vector<at::Tensor> EstimateKl(const data::TokenizedDataset& dataset,
                                     const std::vector<data::PackedBatch>& batches, const job::Share& share);
  // float64 [metrics] of a micro-batch; 0 for a class that it lacks. grad_scale not 0: adds its
  // gradients times that.
  at::Tensor Run(const data::TokenizedDataset& dataset, const data::PackedBatch& batch,
                 const at::Tensor& kl, double grad_scale);

  const MethodInputs in_;
  const preference::UnpairedLossOptions loss_;
  Reference reference_;
};

}  // namespace finetuned::train
