#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/metrics/nvml.h"

// Prometheus metrics of the daemon. No series carries a label "job" or "instance", which belong to the
// scraper; job_id appears only on series of a job that has, or just had, the device. Thread-safe.
namespace finetuned::metrics {

class Metrics {
 public:
  struct Options {
    std::string version;
    std::string state_dir;                                // for free and total space
    absl::Duration job_series_linger = absl::Minutes(5);  // after the job left the device
  };
  explicit Metrics(Options options);
  ~Metrics();

  // Serves /metrics over HTTP on `address`; UNAVAILABLE when it cannot listen.
  absl::Status Serve(const std::string& address);
  int port() const;           // 0: not serving
  std::string Text() const;   // what /metrics answers

  // Jobs.
  void JobSubmitted(const std::string& method);
  void JobRejected(const std::string& reason);  // "vram_budget_exceeded"
  // One job changed its state; UNSPECIFIED: did not or does not exist.
  void JobState(const std::string& method, v1::JobState from, v1::JobState to);
  // Sets the count: what the store holds at the start.
  void JobCount(const std::string& method, v1::JobState state, int64_t count);
  void JobFinished(const std::string& method, v1::JobState outcome, v1::StateReason reason,
                   absl::Duration ran);
  void QueueWait(absl::Duration waited);
  void AttemptStarted(const std::string& cause);  // "submit", "retry", "worker_crash", ...
  void JobPreempted();
  void OldestQueued(absl::Time time);             // InfinitePast: the queue is empty
  void Ready(bool accepting);

  // The job that has the device. Its series go job_series_linger after JobOffDevice.
  void JobOnDevice(const v1::Job& job);
  void JobOffDevice(const std::string& job);
  void Plan(const std::string& job, const internal::v1::WorkerPlan& plan);
  void Step(const std::string& job, const internal::v1::WorkerStep& step);
  void Eval(const std::string& job, const internal::v1::WorkerStep& eval);
  void Checkpoint(const std::string& job, absl::Time time);
  void Warning(const std::string& job, const std::string& code);
  void OutOfMemory();                              // that ended a job
  // Peak of a finished attempt against its plan.
  void AttemptMemory(const std::string& job, int64_t predicted_bytes);

  // Device and store.
  void Device(const internal::v1::WorkerHello& hello, int64_t budget_bytes);
  void Heartbeat(const internal::v1::WorkerHeartbeat& heartbeat);
  void Gpus(const std::vector<GpuReading>& readings, absl::Time now);
  // The readings last given to Gpus, with power_watts; none once they are stale.
  std::vector<GpuReading> LatestGpus(absl::Time now) const;
  void JournalSync(double seconds);
  // Drops the series of jobs that left long ago and measures the file system. Called every few seconds.
  void Refresh(absl::Time now);

  // A lease of a reward batch ended: "ok" (with the time from question to scores), "error", "timeout".
  void RewardBatch(const std::string& result, absl::Duration took);
  void RewardWorkers(size_t attached);

  // From the call to its first piece.
  void SampleFirstToken(absl::Duration took);

  // Streams.
  void WatchOpened();
  void WatchClosed(const std::string& reason);  // "" when the client or the job ended it

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finetuned::metrics
