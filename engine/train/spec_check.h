#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "engine/job/train_spec.h"

namespace finetuned::train {

// INVALID_ARGUMENT whose message begins with the path of the first wrong field ("lora.rank: ...").
absl::Status ValidateSpec(const job::TrainSpec& spec);

// The settings that change what a run computes, as stored in its checkpoints: all but names, paths,
// checkpointing, evaluation and threads.
nlohmann::json SpecIdentity(const job::TrainSpec& spec);

}  // namespace finetuned::train
