#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/supervisor/backend.h"

namespace finetuned::supervisor {

struct SlurmOptions {
  std::string script;                  // deploy/slurm/finetune.sbatch, or one like it
  std::vector<std::string> arguments;  // of sbatch, before the script: "--partition=gpu", "--ntasks=2"
  std::string worker_binary;           // on the nodes
  int64_t vram_bytes = 0;              // of a GPU of the nodes; 0: unknown, nothing is refused for its size
  absl::Duration poll_interval = absl::Seconds(5);
};

// Runs jobs through Slurm instead of a process of its own: sbatch submits deploy/slurm/finetune.sbatch, squeue tells how it
// goes, scancel carries signals (USR1 checkpoint, TERM leave, USR2 finish), and the worker's file of events is read as it
// grows. The state directory must be one that the nodes see. One job is in Slurm at a time: the queue is the daemon's.
//
// A job goes on in Slurm while the daemon is down: the next one finds its number in JOB_DIR/slurm.json and reads on after
// the last event it has kept. Samples and rewards from a client need the local worker and are refused.
class Slurm : public Backend {
 public:
  // `events` must outlive it.
  Slurm(SlurmOptions options, WorkerEvents* events);
  // Jobs in Slurm go on.
  ~Slurm() override;

  int Start() override;
  void Run(const internal::v1::RunJob& run) override;
  void Signal(const internal::v1::JobSignal& signal) override;
  void Reward(const internal::v1::RewardAnswer& answer) override;
  void Sample(const internal::v1::RunSample& sample) override;
  void CancelSample(int64_t id) override;
  void Acknowledge(int64_t sequence) override;
  void Shutdown() override;
  void Kill(const std::string& why) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finetuned::supervisor
