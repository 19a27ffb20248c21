#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/reward/choice.h"
#include "engine/reward/reward.h"

namespace finetuned::reward {

// The built-in rewards of a job. Immutable, thread safe.
class RewardSet {
 public:
  // INVALID_ARGUMENT as MakeReward, and for a weight that is not finite.
  static absl::StatusOr<RewardSet> Make(const std::vector<Choice>& choices);

  size_t size() const { return rewards_.size(); }
  // Unique: the second "regex" is called "regex_2".
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<double>& weights() const { return weights_; }
  // Every column some reward reads, with the reward that does.
  std::map<std::string, std::string> columns() const;

  // scores[i * size() + k]: reward k of item i; NaN where it abstains. Adds the abstentions, by
  // "NAME: why", to `abstained` unless null.
  std::vector<double> Evaluate(std::span<const Item> items,
                               std::map<std::string, int64_t>* abstained) const;

 private:
  std::vector<std::string> names_;
  std::vector<double> weights_;
  std::vector<std::shared_ptr<const Reward>> rewards_;
};

}  // namespace finetuned::reward
