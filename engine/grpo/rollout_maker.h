#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/data/prompts.h"
#include "engine/generate/generator.h"
#include "engine/grpo/rollout.h"
#include "engine/job/remote_scorer.h"
#include "engine/reward/advantages.h"
#include "engine/reward/reward_set.h"
#include "engine/text/tokenizer.h"

namespace finetuned::grpo {

// What a rollout is made with; everything outlives the maker.
struct RolloutMakerInputs {
  generate::Generator* generator = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const std::vector<data::Prompt>* prompts = nullptr;
  const reward::RewardSet* rewards = nullptr;     // computed here
  std::vector<std::string> remote_names;          // computed outside
  std::vector<double> remote_weights;
  job::RemoteScorer* scorer = nullptr;            // needed with remote_names
  generate::SamplingOptions sampling;             // seed is replaced for each group
  std::vector<std::string> stop;                  // texts that end a completion
  reward::AdvantageOptions advantages;            // its group_size is the rollout's
  uint64_t seed = 42;
  std::string batch_prefix;                       // of the ids of questions: "r", "eval"
  std::function<bool()> stop_wanted;              // the run should stop soon
  std::function<void(const std::string& code, const std::string& text)> warn;
};

// Samples the completions of a rollout and has them scored. A group is sent to be scored as soon as its
// last completion ends, while others are still being generated.
class RolloutMaker {
 public:
  explicit RolloutMaker(RolloutMakerInputs inputs);

  // Fills completions of rollout->prompts. CANCELLED when stop_wanted.
  absl::Status Generate(int64_t step, Rollout* rollout);
  // Fills scores, rewards, advantages and metrics. Groups that nobody could score are dropped with a
  // warning. CANCELLED when stop_wanted.
  absl::Status Score(int64_t step, Rollout* rollout);

  // Of all rewards: those computed here, then those computed outside.
  std::vector<std::string> RewardNames() const;

 private:
  std::string BatchId(const Rollout& rollout, size_t group) const;
  void Ask(int64_t step, const Rollout& rollout, size_t group);
  std::string TextOf(const std::vector<int32_t>& tokens) const;
  bool EndsWithStop(const std::vector<int32_t>& tokens) const;
  void ScoreHere(Rollout* rollout);
  absl::Status ScoreOutside(Rollout* rollout);
  void Judge(Rollout* rollout) const;

  const RolloutMakerInputs in_;
  std::set<std::string> asked_;    // batches of this process
  std::set<std::string> warned_;   // reasons of abstentions told already
};

// Of a rollout's completions, by TRL's names: completions/mean_length and so on.
void AddLengthMetrics(Rollout* rollout);

}  // namespace finetuned::grpo
