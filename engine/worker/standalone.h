#pragma once

#include <string>

#include "engine/job/world.h"

namespace finetuned::worker {

struct StandaloneOptions {
  std::string spec_file;  // job file (YAML or JSON); base_model and datasets are paths
  std::string state_dir;  // everything the run keeps; restart with the same one to go on
  int cpu_threads = 0;    // 0: all cores
  job::WorldOptions world;
};

// Runs one job without a daemon, for Slurm, Kubernetes or by hand. USR1 writes a checkpoint, USR2
// finishes early (evaluates, exports), TERM and INT write a checkpoint and leave. As one of several processes (options.world) it shares the work of each step with the others;
// all of them see state_dir. Events are appended to state_dir/events.jsonl, one JSON object a line.
// Exit codes: 0 done, 65 bad data, 70 internal error, 75 checkpointed (run again to go on), 78 bad
// configuration.
int RunStandalone(const StandaloneOptions& options);

}  // namespace finetuned::worker
