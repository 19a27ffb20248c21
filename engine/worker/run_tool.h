#pragma once

#include <optional>

#include "engine/job/train_spec.h"
#include "finetuned/v1/spec.pb.h"

namespace finetuned::worker {

// Runs a resolved job that trains nothing, an export or an evaluation, on the calling thread. `run` says where its files
// lie and what it computes on. Nothing for other jobs.
std::optional<job::RunResult> RunTool(const v1::JobSpec& spec, const job::TrainSpec& run,
                                      job::RunObserver& observer, job::RunControl& control);

}  // namespace finetuned::worker
