#pragma once

#include <map>
#include <string>

#include "engine/train/method.h"

namespace finetuned::train {

// Cross entropy of the targets, averaged over all targets of a window. Measures loss, and entropy
// and mean_token_accuracy as means over micro-batches of their means over targets (as TRL).
class SftMethod : public Method {
 public:
  explicit SftMethod(const MethodInputs& inputs) : in_(inputs) {}

  at::Tensor AccumulateGradients(const Window& window) override;
  std::map<std::string, double> StepValues(const Window& window,
                                           const double* measured) const override;
  // Held-out loss without label smoothing, over all targets of the set: eval_loss, eval_entropy,
  // eval_mean_token_accuracy, eval_tokens (targets), eval_runtime (seconds).
  std::map<std::string, double> Evaluate(int64_t step) override;

 private:
  const MethodInputs in_;
};

}  // namespace finetuned::train
