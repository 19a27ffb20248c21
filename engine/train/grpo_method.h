#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/data/prompts.h"
#include "engine/generate/generator.h"
#include "engine/grpo/loss.h"
#include "engine/grpo/rollout.h"
#include "engine/grpo/rollout_maker.h"
#include "engine/grpo/rollout_schedule.h"
#include "engine/plan/memory_plan.h"
#include "engine/reward/reward_set.h"
#include "engine/train/method.h"
#include "engine/train/rollout_journal.h"

namespace finetuned::train {

// Completions sampled together, and what generating them takes.
int64_t CompletionsPerRollout(const job::TrainSpec& spec);
plan::Rollout PlannedRollout(const job::TrainSpec& spec);

// Group relative policy optimisation: samples rollouts with the adapter as it is, has them scored, and trains
// on their completions. Rollouts, with their scores, are on disk before a step trains on them.
class GrpoMethod final : public Method {
 public:
  // What can be wrong with the job beyond ValidateSpec. INVALID_ARGUMENT and FAILED_PRECONDITION begin with the
  // field at fault.
  static absl::Status Check(const job::TrainSpec& spec, size_t prompts);
  // REQUIRES: Check is OK. Takes device memory for the cache of keys and values.
  explicit GrpoMethod(const MethodInputs& inputs);

  int64_t StepsPerEpoch() const override { return schedule_.steps_per_epoch(); }
  absl::StatusOr<Window> MakeWindow(int64_t step, uint64_t first_pass) override;
  Window ProbeWindow(const data::BatchPlan& plan) override;
  double ReferencePasses() const override;
  at::Tensor AccumulateGradients(const Window& window) override;
  std::map<std::string, double> StepValues(const Window& window, const double* measured) const override;
  // Reports evaluation.sample_prompts of the answers.
  std::map<std::string, double> Evaluate(int64_t step) override;

 private:
  // A micro-batch of the window beside its tokens.
  struct Piece {
    grpo::LossBatch loss;
    at::Tensor old_M;  // undefined: the policy's own
  };

  grpo::RolloutMakerInputs MakerInputs(const std::vector<data::Prompt>& prompts, const char* prefix);
  absl::Status LoadRollout(int64_t index, int64_t step);
  absl::Status AddOldLogProbs();
  data::PackedBatch Pack(const std::vector<int64_t>& completions, std::vector<int64_t>* lengths) const;
  Piece MakePiece(const std::vector<int64_t>& completions, const std::vector<int64_t>& lengths) const;
  // `wanted` completions, spread over the groups; prefix: of their prompts' ids.
  void ReportSamples(int64_t step, const grpo::Rollout& rollout, const std::vector<data::Prompt>& prompts,
                     int64_t wanted, const char* prefix) const;
  absl::Status CountUnscored(const grpo::Rollout& rollout);
  bool LeftOut(int64_t completion) const;
  bool StopWanted() const;

  const MethodInputs in_;
  const job::GrpoOptions& options_;
  const reward::RewardSet rewards_;
  const grpo::RolloutSchedule schedule_;
  const grpo::LossOptions loss_options_;
  const model::LogProbOptions log_prob_options_;
  generate::Generator generator_;
  grpo::RolloutMaker maker_;
  RolloutJournal journal_;
  std::optional<grpo::Rollout> rollout_;  // of the window
  std::vector<Piece> pieces_;             // of the window's micro-batches
  double window_tokens_ = 1;
  int64_t evaluations_ = 0;
  int64_t unscored_in_row_ = 0;           // rollouts without any score
};

}  // namespace finetuned::train
