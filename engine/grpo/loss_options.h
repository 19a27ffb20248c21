#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace finetuned::grpo {

enum class LossType { kGrpo, kBnpo, kDrGrpo, kDapo, kCispo, kSapo, kLuspo, kVespo };

// "grpo", "bnpo", ...: as TRL's loss_type.
const std::vector<std::string>& LossTypeNames();
std::optional<LossType> ParseLossType(const std::string& name);

// The policy loss (TRL 1.16, GRPOTrainer._compute_loss; docs/grpo.md says what each is).
struct LossOptions {
  LossType type = LossType::kDapo;
  bool sequence_level = false;  // one importance ratio per completion (GSPO)
  double clip_low = 0.2;
  double clip_high = 0.2;             // kCispo: the ratio's cap itself
  std::optional<double> delta;        // upper bound of the ratio; unset: none
  double beta = 0;                    // weight of the KL to the reference
  bool bias_corrected_kl = false;     // KL times the importance ratio
  double top_entropy_quantile = 1;    // (0, 1]: share of the tokens, by entropy, that train
  double entropy_coef = 0;            // weight of the mean entropy of the tokens that train, a bonus
  int64_t max_completion_tokens = 0;  // kDrGrpo's divisor
};

}  // namespace finetuned::grpo
