#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "server/store/layout.h"

// Starts the worker process and talks to it. Knows processes and streams, nothing of the queue.
namespace finetuned::supervisor {

// What the worker says. Called on the supervisor's threads, one call at a time; must not block.
// `worker` counts the processes started: answers of an old one can be told apart.
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  virtual void OnWorkerReady(int worker, const internal::v1::WorkerHello& hello) = 0;
  virtual void OnWorkerMessage(int worker, internal::v1::WorkerMessage message) = 0;
  // The process has ended. `how`: "killed by signal 11 (Segmentation fault)"; `log`: its last lines.
  virtual void OnWorkerExit(int worker, const std::string& how, const std::string& log) = 0;
};

// What the daemon wants of the worker: the backends, a process of the daemon's (Supervisor) and Slurm, implement it. One
// worker at a time. Thread-safe; no call blocks for long.
class WorkerControl {
 public:
  virtual ~WorkerControl() = default;
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

struct SupervisorOptions {
  store::Layout layout;
  std::string binary;             // absolute
  std::string device = "auto";    // passed on: auto, cuda or cpu
  std::vector<std::string> extra_arguments;  // before the others; for tests
  int64_t log_bytes = 8 << 20;    // worker.log is rotated at this size
  int log_files = 3;              // rotated files kept
  absl::Duration orphan_grace = absl::Seconds(20);  // for a worker of an earlier daemon to leave
};

// The real thing. The worker is a child in a process group of its own, gets SIGTERM when the daemon
// dies, dials back over a private socket and proves itself with a random token read from a pipe. A lock
// file that it holds open tells a later daemon that it still lives; Start waits for such a one, then
// kills it: two workers never share the device or a job's directory.
class Supervisor : public WorkerControl {
 public:
  // Listens on the private socket. `events` must outlive it.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(SupervisorOptions options,
                                                            WorkerEvents* events);
  // Kills a worker that still runs.
  ~Supervisor() override;

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
  explicit Supervisor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace finetuned::supervisor
