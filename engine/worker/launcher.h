#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/job/world.h"

namespace finetuned::worker {

// The place of this process among those of a data-parallel run, from the environment that launchers set: RANK, WORLD_SIZE,
// MASTER_ADDR, MASTER_PORT and LOCAL_RANK (torchrun, Kubernetes), or SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID (srun),
// with MASTER_ADDR and MASTER_PORT set by the batch script. Neither: a run alone. INVALID_ARGUMENT says what is missing.
absl::StatusOr<job::WorldOptions> WorldFromEnvironment();

// Lets this process see only the GPU of its local rank, unless its launcher already chose one. Before the first use of CUDA.
void SeeOnlyOwnGpu();

// Runs `arguments` (program first) `processes` times on this machine, as the ranks of one world, with a port that is free.
// TERM, INT, USR1 and USR2 are passed on; when one process fails the others are ended. Returns the exit code for all: 0 when all
// succeeded, else the first of 78, 65, 70 that any has, else 75.
int LaunchProcesses(const std::vector<std::string>& arguments, int processes);

}  // namespace finetuned::worker
