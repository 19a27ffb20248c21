#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace finetuned::grpo {

struct ScheduleOptions {
  int64_t prompts = 0;               // in the file
  int64_t group_size = 8;
  int64_t prompts_per_rollout = 0;   // 0: as many as one optimizer step takes
  int64_t micro_batch_size = 1;      // completions in a forward pass
  int64_t accumulation = 1;          // micro-batches in an optimizer step
  int64_t updates_per_rollout = 1;   // how often a rollout's completions are gone through
  bool shuffle = true;
  uint64_t seed = 42;
};

// Which prompts a rollout samples and which completions a step trains on. A pure function of options and
// step: a resumed run needs no cursor. As TRL's sampler: each epoch visits the prompts in a new order, those
// that fill no whole rollout are left out. The groups of a rollout are shuffled once; completions of a group stay
// together, so that a micro-batch has their prompt once (TRL shuffles the completions).
class RolloutSchedule {
 public:
  // FAILED_PRECONDITION, beginning with the field at fault, when the numbers do not divide or there are too
  // few prompts.
  static absl::Status Check(const ScheduleOptions& options);
  // REQUIRES: Check(options) is OK.
  explicit RolloutSchedule(const ScheduleOptions& options);

  int64_t prompts_per_rollout() const { return per_rollout_; }
  int64_t steps_per_rollout() const { return windows_ * options_.updates_per_rollout; }
  int64_t steps_per_epoch() const { return rollouts_per_epoch_ * steps_per_rollout(); }

  // Steps count from 1.
  int64_t RolloutOf(int64_t step) const { return (step - 1) / steps_per_rollout(); }
  int64_t FirstStepOf(int64_t rollout) const { return rollout * steps_per_rollout() + 1; }
  std::vector<int64_t> PromptsOf(int64_t rollout) const;
  // Indices into the rollout's completions, micro-batch by micro-batch.
  std::vector<std::vector<int64_t>> MicroBatchesOf(int64_t step) const;

 private:
  const ScheduleOptions options_;
  int64_t per_rollout_ = 0, windows_ = 0, rollouts_per_epoch_ = 0;
};

}  // namespace finetuned::grpo
