#pragma once

#include <cstdint>
#include <string>

#include "finetuned/internal/v1/worker.pb.h"

// Where workers run: what the daemon asks of such a place and what it hears from there. Knows nothing of the queue.
namespace finetuned::supervisor {

// What the worker says. Called on the backend's threads, one call at a time; must not block.
// `worker` counts the processes started: answers of an old one can be told apart.
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  virtual void OnWorkerReady(int worker, const internal::v1::WorkerHello& hello) = 0;
  virtual void OnWorkerMessage(int worker, internal::v1::WorkerMessage message) = 0;
  // The process has ended. `how`: "killed by signal 11 (Segmentation fault)"; `log`: its last lines.
  virtual void OnWorkerExit(int worker, const std::string& how, const std::string& log) = 0;
};

// What the daemon wants of the worker, wherever it runs: Supervisor starts a process of this machine, Slurm submits to a
// cluster (`worker.backend`). One worker at a time. Thread-safe; no call blocks for long.
class Backend {
 public:
  virtual ~Backend() = default;
  // Starts a process and returns its number at once; OnWorkerReady or OnWorkerExit follows, the latter
  // also when the program cannot be started. REQUIRES: none is running.
  virtual int Start() = 0;
  virtual void Run(const internal::v1::RunJob& run) = 0;
  virtual void Signal(const internal::v1::JobSignal& signal) = 0;
  // Scores of completions it asked for.
  virtual void Reward(const internal::v1::RewardAnswer& answer) = 0;
  virtual void Sample(const internal::v1::RunSample& sample) = 0;
  virtual void CancelSample(int64_t id) = 0;
  // Every message up to `sequence` is durable.
  virtual void Acknowledge(int64_t sequence) = 0;
  virtual void Shutdown() = 0;                     // asks it to leave; OnWorkerExit follows
  virtual void Kill(const std::string& why) = 0;   // SIGKILL to its process group; OnWorkerExit follows
};

}  // namespace finetuned::supervisor
