#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "engine/job/remote_scorer.h"
#include "engine/job/train_spec.h"
#include "finetuned/internal/v1/worker.grpc.pb.h"

namespace finetuned::worker {

namespace internal = ::finetuned::internal::v1;

// What the daemon wants done next: one of the two.
struct Work {
  std::optional<internal::RunJob> run;
  std::optional<internal::RunSample> sample;
};

// The worker's end of the stream to the daemon. One thread reads commands, one writes messages, so
// that training never waits for the daemon: Send only appends to a queue.
// Losing the stream means the daemon is gone: a running job is told to leave with a checkpoint.
class Link {
 public:
  // Dials `address` ("unix:///path") and says hello.
  Link(const std::string& address, const internal::WorkerHello& hello);
  ~Link();
  Link(const Link&) = delete;

  // Blocks for the next job or, if there is none, the next sample; empty when the daemon said to shut down or the
  // stream ended.
  std::optional<Work> NextWork();
  // Becomes true when sample `id` is not wanted any more: cancelled, a job waits, the daemon is gone. Null: none runs.
  void SetSampling(int64_t id, std::atomic<bool>* cancel);
  // Control of the job being run: signals for it arrive here. Null between jobs.
  void SetRunning(const std::string& job, job::RunControl* control);
  void Send(internal::WorkerMessage message);
  // Waits until everything sent has been acknowledged as durable, or the stream ended, or 30 s.
  void Flush();
  bool lost() const { return lost_; }
  // Takes the answer to a question about completions of the running job; null: not there within 200 ms.
  std::optional<internal::RewardAnswer> TakeAnswer(const std::string& batch_id);

 private:
  void ReadLoop();
  void WriteLoop();
  void Apply(const internal::JobSignal& signal);
  void StopSampling();  // holds mutex_
  // Something to write, or, while a job waits for a sample to end, nothing for two seconds: then a sign of life.
  bool WaitForMessage(std::unique_lock<std::mutex>& lock);

  std::unique_ptr<internal::WorkerLink::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<internal::WorkerMessage, internal::WorkerCommand>> stream_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<internal::WorkerMessage> outbox_;   // guarded by mutex_, like all below
  std::deque<internal::RunJob> jobs_;
  std::deque<internal::RunSample> samples_;
  int64_t sampling_ = 0;
  std::atomic<bool>* cancel_sample_ = nullptr;
  std::map<std::string, internal::RewardAnswer> answers_;  // of the running job, by batch
  std::vector<internal::JobSignal> early_;       // for jobs that wait in jobs_
  std::string running_;
  job::RunControl* control_ = nullptr;
  int64_t sequence_ = 0;
  int64_t acknowledged_ = 0;
  bool closing_ = false;
  bool shutdown_ = false;
  std::atomic<bool> lost_{false};
  std::thread reader_, writer_;
};

// Carries the questions of one run to the daemon.
class LinkScorer : public job::RemoteScorer {
 public:
  LinkScorer(Link* link, std::string job) : link_(link), job_(std::move(job)) {}
  void Ask(const job::ScoreQuestion& question) override;
  std::optional<job::ScoreAnswer> Wait(const std::string& batch_id, const std::function<bool()>& stop) override;

 private:
  Link* const link_;
  const std::string job_;
};

// Forwards what a run reports to the daemon.
class LinkObserver : public job::RunObserver {
 public:
  LinkObserver(Link* link, const internal::RunJob& run);
  ~LinkObserver() override;

  void OnPhase(const std::string& phase) override;
  void OnPlan(int64_t first_step, int64_t total_steps,
              const std::map<std::string, double>& dataset_stats) override;
  void OnStep(int64_t step, double epoch, const std::map<std::string, double>& values) override;
  void OnEval(int64_t step, const std::map<std::string, double>& values) override;
  void OnCheckpoint(int64_t step, const std::string& directory, int64_t bytes) override;
  void OnWarning(const std::string& code, const std::string& text) override;
  void OnLog(const std::string& text) override;
  void OnSample(const job::SampleOutput& sample) override;
  void Finished(const job::RunResult& result);

 private:
  internal::WorkerMessage NewEvent() const;
  void HeartbeatLoop();

  Link* link_;
  std::string job_;
  int32_t attempt_;
  std::string state_dir_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopped_ = false;             // guarded by mutex_
  internal::WorkerHeartbeat beat_;   // guarded by mutex_
  std::thread heartbeat_;
};

}  // namespace finetuned::worker
