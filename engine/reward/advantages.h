#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finetuned::reward {

struct AdvantageOptions {
  int64_t group_size = 8;
  enum class Scale {
    kGroup,
    kBatch,
    kNone
  } scale = Scale::kGroup;  // what divides reward - group mean
  // normalize_then_sum (GDPO): each reward is normalized in its group, the weighted sum over the
  // batch.
  bool normalize_each = false;
};

// What the rewards of one rollout are worth (TRL 1.16, grpo_trainer.py,
// _generate_and_score_completions).
struct Advantages {
  std::vector<double> advantages;          // [N]; 0 for a completion without any score
  std::vector<double> rewards;             // [N] weighted sums; NaN without any score
  double reward_mean = 0, reward_std = 0;  // of the rewards that exist
  std::vector<double> means, stds;         // [K] of each reward
  double zero_std_share = 0;  // completions whose divisor is 0, as TRL's frac_reward_zero_std
  int64_t groups = 0;
  int64_t zero_spread_groups = 0;  // groups whose rewards are all equal: nothing to learn from
};

// scores [N, K], NaN: no score; weights [K]; N a multiple of group_size, a group's completions
// adjacent. Standard deviations have Bessel's correction and pass over NaN (one value alone: NaN,
// so advantage 0); 1e-4 is added to them.
Advantages ComputeAdvantages(std::span<const double> scores, std::span<const double> weights,
                             const AdvantageOptions& options);

}  // namespace finetuned::reward
