#include "engine/reward/reward_set.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace finetuned::reward {

absl::StatusOr<RewardSet> RewardSet::Make(const std::vector<Choice>& choices) {
  RewardSet set;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& choice = choices[i];
    auto made = MakeReward(choice.name, choice.args);
    if (!made.ok()) return made.status();
    if (!std::isfinite(choice.weight)) {
      return absl::InvalidArgumentError(absl::StrCat("reward ", choice.name, ": weight is ",
                                                     choice.weight, ", must be a finite number"));
    }
    const auto same =
        std::count_if(choices.begin(), choices.begin() + static_cast<std::ptrdiff_t>(i),
                      [&](const Choice& other) { return other.name == choice.name; });
    set.names_.push_back(same == 0 ? choice.name : absl::StrCat(choice.name, "_", same + 1));
    set.weights_.push_back(choice.weight);
    set.rewards_.push_back(*std::move(made));
  }
  return set;
}

std::map<std::string, std::string> RewardSet::columns() const {
  std::map<std::string, std::string> columns;
  for (size_t k = 0; k < size(); ++k) {
    for (const std::string& column : rewards_[k]->columns()) columns.emplace(column, names_[k]);
  }
  return columns;
}

std::vector<double> RewardSet::Evaluate(std::span<const Item> items,
                                        std::map<std::string, int64_t>* abstained) const {
  std::vector<double> scores;
  scores.reserve(items.size() * size());
  for (const Item& item : items) {
    for (size_t k = 0; k < size(); ++k) {
      const Score score = rewards_[k]->Evaluate(item);
      scores.push_back(score.value);
      if (abstained != nullptr && !score.abstained.empty()) {
        ++(*abstained)[absl::StrCat(names_[k], ": ", score.abstained)];
      }
    }
  }
  return scores;
}

}  // namespace finetuned::reward
