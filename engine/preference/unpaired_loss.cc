#include "engine/preference/unpaired_loss.h"

#include <ATen/ATen.h>

namespace finetuned::preference {

UnpairedLoss ComputeUnpairedLoss(const at::Tensor& log_probs_N, const at::Tensor& reference_N,
                                 const at::Tensor& desirable_N, const at::Tensor& kl,
                                 const UnpairedLossOptions& o) {
  // Both classes are 1 - sigmoid(sign * beta * (log ratio - kl)), with sign +1 for desirable and -1
  // for others.
  const at::Tensor sign = desirable_N * 2 - 1;
  const at::Tensor weight =
      desirable_N * o.desirable_weight + (1 - desirable_N) * o.undesirable_weight;
  at::Tensor ratio = log_probs_N - reference_N;
  if (o.uses_kl) ratio = ratio - kl;
  const at::Tensor x = ratio * sign * o.beta;
  const double scale = 1.0 / static_cast<double>(x.numel());
  return {(weight * at::sigmoid(-x)).sum() * scale,
          weight * at::sigmoid(x) * at::sigmoid(-x) * sign * (-o.beta * scale)};
}

}  // namespace finetuned::preference
