#include "engine/reward/reward.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/reward/internal.h"
#include "proto/spec/nearest.h"

namespace finetuned::reward {
namespace {

const std::map<std::string, MadeReward (*)(const Args&)>& Makers() {
  static const auto* const kMakers = new std::map<std::string, MadeReward (*)(const Args&)>{
      {"exact", MakeExact},   {"numeric", MakeNumeric},
      {"regex", MakeRegex},   {"json_schema", MakeJsonSchema},
      {"length", MakeLength}, {"format", MakeFormat}};
  return *kMakers;
}

// The limits that hold for all.
class Limited final : public Reward {
 public:
  explicit Limited(std::unique_ptr<Reward> reward) : reward_(std::move(reward)) {}
  Score Evaluate(const Item& item) const override {
    if (item.completion.size() > kMaxCompletionBytes) {
      return Score::Abstain(absl::StrCat("the completion has ", item.completion.size(),
                                         " bytes; the limit is ", kMaxCompletionBytes));
    }
    return reward_->Evaluate(item);
  }
  std::vector<std::string> columns() const override { return reward_->columns(); }

 private:
  const std::unique_ptr<Reward> reward_;
};

}  // namespace

const std::vector<std::string>& RewardNames() {
  static const auto* const kNames = [] {
    auto* names = new std::vector<std::string>;
    for (const auto& [name, maker] : Makers()) names->push_back(name);
    return names;
  }();
  return *kNames;
}

absl::StatusOr<std::unique_ptr<Reward>> MakeReward(const std::string& name, const Args& args) {
  const auto found = Makers().find(name);
  if (found == Makers().end()) {
    const std::string near = spec::Nearest(name, RewardNames());
    return absl::InvalidArgumentError(absl::StrCat(
        "there is no reward \"", name, "\"; known: ", absl::StrJoin(RewardNames(), ", "),
        near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  }
  MadeReward made = found->second(args);
  if (!made.ok()) return made.status();
  return std::make_unique<Limited>(*std::move(made));
}

}  // namespace finetuned::reward
