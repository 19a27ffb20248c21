#pragma once

#include <string>

#include "engine/job/train_spec.h"
#include "finetuned/v1/spec.pb.h"

namespace finetuned::worker {

// Paths the daemon (or the command line) fills in beside the spec.
struct RunPaths {
  std::string base_model, dataset, eval_dataset, state_dir;
  std::string init_adapter = {};  // PEFT folder; empty: a new adapter
  std::string reference_dir = {};  // as TrainSpec
};

// Translates a resolved JobSpec. Every field must hold its final value: defaults are filled in by
// spec::ResolveSpec, nowhere else.
job::TrainSpec ToTrainSpec(const v1::JobSpec& spec, const std::string& job_name,
                           const RunPaths& paths, int cpu_threads, int64_t created_unix_seconds = 0);

}  // namespace finetuned::worker
