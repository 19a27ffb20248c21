#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/supervisor/backend.h"

namespace finetuned::api {

// A worker process that exists only as a script: says hello when started, runs what it is given, and
// reports what the test tells it to. CANCEL, LEAVE, CHECKPOINT and FINISH are obeyed at once.
class FakeWorker : public supervisor::Backend {
 public:
  explicit FakeWorker(std::string device = "cpu", int64_t device_bytes = 0);
  ~FakeWorker() override;
  void Connect(supervisor::WorkerEvents* events) { events_ = events; }
  // What it says to have measured of its device. Before it is started.
  void Measured(int64_t context_bytes, int64_t workspace_bytes) {
    context_bytes_ = context_bytes;
    workspace_bytes_ = workspace_bytes;
  }

  // The job handed over last; waits until there is one (30 s, then the test fails).
  internal::v1::RunJob WaitForRun();
  void Phase(const std::string& phase);
  void Plan(int64_t total_steps);
  void Step(int64_t step, double loss);
  void Eval(int64_t step, double loss);
  void Checkpoint(int64_t step);
  void Warn(const std::string& code);
  void Log(const std::string& text);
  // outcome as the standalone worker's exit code; 0 leaves an adapter behind.
  void Finish(int outcome, const std::string& reason = "", const std::string& message = "");
  // Asks for scores of completions "0", "1", ... of the job.
  void Ask(const std::string& batch_id, int completions);
  // The next answer (30 s, then the test fails).
  internal::v1::RewardAnswer WaitForAnswer();
  // Samples that were handed over and have not been cancelled; waits until there are `count` (30 s).
  std::vector<internal::v1::RunSample> WaitForSamples(size_t count);
  void Piece(int64_t sample, const std::string& text, bool done);

  // From RUNNING to SUCCEEDED with `steps` steps.
  void RunToTheEnd(int steps);

  int Start() override;
  void Run(const internal::v1::RunJob& run) override;
  void Signal(const internal::v1::JobSignal& signal) override;
  void Reward(const internal::v1::RewardAnswer& answer) override;
  void Sample(const internal::v1::RunSample& sample) override;
  void CancelSample(int64_t id) override;
  void Acknowledge(int64_t) override {}
  void Shutdown() override;
  void Kill(const std::string& why) override;

 private:
  void Post(std::function<void()> task);
  void Loop();
  internal::v1::WorkerEvent NewEvent();
  void Say(internal::v1::WorkerEvent event);
  void Send(internal::v1::WorkerMessage message);
  void WriteAdapter(const std::string& directory);

  const std::string device_;
  const int64_t device_bytes_;
  int64_t context_bytes_ = 0, workspace_bytes_ = 0;
  supervisor::WorkerEvents* events_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  int number_ = 0;
  int64_t sequence_ = 0;
  int64_t step_ = 0;
  std::optional<internal::v1::RunJob> run_;
  std::vector<internal::v1::RunSample> samples_;
  std::deque<internal::v1::RewardAnswer> answers_;
  std::deque<std::function<void()>> tasks_;  // calls of events_, one after another
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace finetuned::api
