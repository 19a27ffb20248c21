// Losses of pairs of a chosen and a rejected answer (DPO and its relatives), with their gradients
// by hand. Definitions: TRL 1.16, trainer/dpo_trainer.py. Legend: P pairs of a micro-batch; all
// tensors float64 [P] on one device.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace finetuned::preference {

struct PairLossOptions {
  std::vector<std::string> loss_types = {"sigmoid"};  // of PairLossNames()
  std::vector<double> loss_weights;                   // one per type; empty: all 1
  double beta = 0.1;                                  // > 0
  double label_smoothing =
      0;  // of robust (below 0.5), exo_pair (above 0), aot, aot_unpaired; others ignore it
  std::string f_divergence = "reverse_kl";  // of FDivergenceNames()
  double f_alpha_divergence_coef = 1;       // alpha_divergence; 1 is reverse_kl
  double discopop_tau = 0.05;
};

// sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired,
// apo_zero, apo_down, discopop, sft, sigmoid_norm.
const std::vector<std::string>& PairLossNames();
// reverse_kl, forward_kl, js_divergence, alpha_divergence.
const std::vector<std::string>& FDivergenceNames();

// Log probabilities of answers: sums over their targets.
struct PairLogProbs {
  at::Tensor chosen_P, rejected_P;          // of the policy
  at::Tensor ref_chosen_P, ref_rejected_P;  // of the reference
  at::Tensor chosen_tokens_P,
      rejected_tokens_P;      // targets of each answer, for ipo and sigmoid_norm
  at::Tensor plain_chosen_P;  // of the policy without ld_alpha, for sft; chosen_P where that is 1
  at::Tensor weights_P;       // of pairs (use_weighting); undefined: all 1
};

// Of the mean over pairs, all loss types added with their weights.
struct PairLoss {
  at::Tensor loss;                      // [] the mean
  at::Tensor d_chosen_P, d_rejected_P;  // gradient with respect to chosen_P and rejected_P
  at::Tensor d_plain_chosen_P;  // with respect to plain_chosen_P; undefined without the type sft
};

// REQUIRES: options hold known names, P >= 1, and no weights_P with aot and
// aot_unpaired, which sort, and sft, which has no pairs. Waits for nothing.
PairLoss ComputePairLoss(const PairLogProbs& log_probs, const PairLossOptions& options);

}  // namespace finetuned::preference
