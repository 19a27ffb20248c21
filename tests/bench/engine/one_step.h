// One step of the trainer on random rows, for the plan against what a device hands out.
#pragma once

#include <map>
#include <string>

#include "engine/job/train_spec.h"
#include "engine/model/base_model.h"

namespace finetuned::bench {

// What a run said.
struct StepReport {
  std::map<std::string, double> values;         // of the step; empty: none was taken
  std::map<std::string, std::string> warnings;  // text by code
  std::string error;                            // why it ended without a step
};

// The probe, with spec.evaluation.before_training an evaluation, and one optimizer step on as many random rows, pairs
// or prompts as it takes, each schedule.max_seq_length long with its completion. Rewards of grpo are those of the
// spec; its rollouts are kept below spec.state_dir. Errors of the device are thrown (c10::Error).
StepReport RunOneStep(const job::TrainSpec& spec, const model::BaseModel& base);

}  // namespace finetuned::bench
