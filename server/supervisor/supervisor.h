#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "server/store/layout.h"
#include "server/supervisor/backend.h"

// Starts the worker process and talks to it. Knows processes and streams, nothing of the queue.
namespace finetuned::supervisor {

struct SupervisorOptions {
  store::Layout layout;
  std::string binary;             // absolute
  std::string device = "auto";    // passed on: auto, cuda or cpu
  std::vector<std::string> extra_arguments;  // before the others; for tests
  int64_t log_bytes = 8 << 20;    // worker.log is rotated at this size
  int log_files = 3;              // rotated files kept
  absl::Duration orphan_grace = absl::Seconds(20);  // for a worker of an earlier daemon to leave
};

// On this machine. The worker is a child in a process group of its own, gets SIGTERM when the daemon
// dies, dials back over a private socket and proves itself with a random token read from a pipe. A lock
// file that it holds open tells a later daemon that it still lives; Start waits for such a one, then
// kills it: two workers never share the device or a job's directory.
class Supervisor : public Backend {
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
