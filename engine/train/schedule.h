#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/job/train_spec.h"

namespace finetuned::train {

// Names that LearningRate knows.
const std::vector<std::string>& SchedulerNames();

// Optimizer steps of a run, as transformers counts them: max_steps, or
// ceil(epochs * ceil(micro_batches / gradient_accumulation_steps)).
int64_t TotalSteps(const job::ScheduleOptions& schedule, int64_t micro_batches_per_epoch);

// warmup_steps, or ceil(total * warmup_ratio).
int64_t WarmupSteps(const job::OptimizerOptions& options, int64_t total_steps);

// Learning rate of the update after `done` updates (the first has done = 0), equal to transformers'
// get_scheduler of that name with its defaults. REQUIRES: a known scheduler.
double LearningRate(const job::OptimizerOptions& options, int64_t total_steps, int64_t done);

}  // namespace finetuned::train
