#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/jobs/job_manager.h"
#include "server/jobs/quota.h"

namespace finetuned::jobs {

// The scheduler's thread: takes what callers, the worker and the clock say, one thing after another,
// through the scheduler core into the store, and then acts on it. All private members belong to that
// thread unless said otherwise.
class JobManager::Loop {
 public:
  Loop(Options options, store::Store* store, metrics::Metrics* metrics, EventBus* bus);
  ~Loop();

  absl::Status Start(supervisor::Backend* backend);
  void Stop();

  // Runs `task` on the thread; false when it has ended.
  bool Post(std::function<void()> task);
  // The same, and waits for its answer. UNAVAILABLE when the thread has ended.
  template <typename T>
  absl::StatusOr<T> Call(std::function<absl::StatusOr<T>()> task) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<T>>>();
    std::future<absl::StatusOr<T>> answer = promise->get_future();
    if (!Post([promise, task = std::move(task)] { promise->set_value(task()); })) return Stopped();
    promise.reset();
    try {
      return answer.get();
    } catch (const std::future_error&) {
      return Stopped();  // dropped unanswered at the end
    }
  }

  // ---- requests of the API; on the thread (loop_requests.cc)
  absl::StatusOr<v1::Job> Create(v1::Job job, const std::string& job_id, const Caller& caller);
  // Cancel, Pause, Resume, Stop, Checkpoint. `etag` empty: any.
  absl::StatusOr<v1::Job> Command(const char* method, queue::UserRequest request, const std::string& etag,
                                  const Caller& caller);
  absl::StatusOr<v1::Job> Retry(const std::string& name, const Caller& caller);
  absl::StatusOr<v1::Job> Update(const v1::UpdateJobRequest& request, const Caller& caller);
  absl::StatusOr<bool> Delete(const v1::DeleteJobRequest& request, const Caller& caller);
  void Drain(absl::Duration grace, bool pause_running);
  bool UsesDataset(const std::string& name) const;
  bool UsesAdapter(const std::string& name) const;

  // ---- generation outside of jobs; on the thread (loop_sample.cc)
  absl::StatusOr<int64_t> Sample(internal::v1::RunSample sample, std::shared_ptr<SampleSink> sink);
  void CancelSample(int64_t id);

  // ---- words of the worker; from any thread (loop_worker.cc)
  void WorkerReady(int worker, const internal::v1::WorkerHello& hello);
  void WorkerSaid(int worker, internal::v1::WorkerMessage message);
  void WorkerExited(int worker, const std::string& how, const std::string& log);

  // ---- reward workers; from any thread (loop_rewards.cc)
  rewards::RewardHub& rewards() { return rewards_; }

  // ---- what callers of other threads see (loop_view.cc)
  void Overlay(v1::Job* job) const;  // queue position and why
  WorkerStatus Worker() const;
  bool accepting() const;

 private:
  // What belongs to the same transaction as an input of the core.
  struct Extra {
    std::optional<store::JobRecord> added;            // a job that is not in live_
    std::vector<store::EventRecord> events;           // before those of the core
    std::vector<store::AdapterRecord> adapters;
    std::string edited;                               // job that `edit` changes
    std::function<void(v1::Job*)> edit;
    const Caller* caller = nullptr;                   // remembers the answer: the job `answer`
    const char* method = "";
    std::string answer;
    v1::Job* answered = nullptr;
  };
  using Changed = std::map<std::string, store::JobRecord>;

  // loop.cc
  absl::Status Boot();
  void Run();
  void RunOnce();
  void WaitForWork();
  absl::Time NextWake() const;
  // The clock, for the core. Looked at each round: a gap means that the thread was held up, by its disk or as a whole.
  absl::Time Clock();
  // Takes an input that changes nothing in most cases: no disk access then.
  absl::Status TakeQuietly(const queue::Input& input);
  // Takes `input` (none: nothing new) through the core, makes its effects, `extra` and all pending events
  // of the worker durable, then publishes and acts. On failure nothing has happened.
  absl::Status Transact(const queue::Input* input, Extra extra);
  absl::Status Transact(const queue::Input* input) { return Transact(input, Extra()); }
  absl::Status CommitActions(const std::vector<queue::Action>& actions, Extra extra);
  void Act(const queue::Action& action);
  void AfterCommit(const store::WriteBatch& batch, const std::vector<queue::Action>& actions,
                   const Changed& changed);
  void CountChange(const queue::StateChange& change, const store::JobRecord& record);
  void DrainInbox();
  void Housekeeping();
  static absl::Status Stopped();

  // loop_view.cc
  void PublishView();
  absl::Time OldestQueued(const std::map<std::string, queue::Wait>& waits) const;  // InfinitePast: nothing is queued
  std::map<std::string, absl::Time> EstimateStarts(const std::map<std::string, queue::Wait>& waits,
                                                   absl::Time now) const;

  // loop_requests.cc
  absl::StatusOr<std::optional<v1::Job>> Remembered(const char* method, const Caller& caller) const;
  absl::StatusOr<store::JobRecord> Record(const std::string& name) const;
  absl::Status CheckEtag(const v1::Job& job, const std::string& etag) const;
  absl::Status CheckDependencies(const v1::Job& job) const;
  absl::Status CheckRoom() const;
  // Of the owner of a job that is to be queued.
  absl::Status CheckQuotas(const std::string& owner);
  void ChargeDeviceTime(const queue::StateChange& change, const v1::Job& job);

  // loop_worker.cc
  void SendRun(const std::string& name);
  absl::StatusOr<internal::v1::RunJob> MakeRun(const store::JobRecord& record) const;
  absl::Status TakeMessage(const internal::v1::WorkerMessage& message);
  absl::Status TakeEvent(const internal::v1::WorkerEvent& event);
  absl::Status TakeFinished(const internal::v1::WorkerFinished& finished);
  void TakeHeartbeat(const internal::v1::WorkerHeartbeat& beat);
  absl::Status TakeExit(const std::string& how, const std::string& log);
  void TakePlan(const internal::v1::WorkerPlan& plan, store::JobRecord* record, v1::Event event);
  void TakeStep(const internal::v1::WorkerStep& step, store::JobRecord* record, v1::Event event);
  void TakeEval(const internal::v1::WorkerStep& eval, store::JobRecord* record, v1::Event event);
  void TakeCheckpoint(const internal::v1::WorkerCheckpoint& saved, store::JobRecord* record,
                      v1::Event event);
  void AddPending(store::JobRecord* record, v1::Event event);
  // loop_device.cc
  // XIDs that the driver has reported since the running job began: a warning of the job, and the end of the worker when
  // the device is lost with them.
  void LookForXids();
  std::map<uint64_t, int64_t> CountXids() const;
  void MeasureContext(const internal::v1::WorkerHeartbeat& beat);
  void ReadContext();
  // loop_sample.cc
  void SendWaitingSamples();
  void TakeSample(const internal::v1::SamplePiece& piece);
  void EndSamples(const absl::Status& status);
  absl::Status WhyBusy() const;

  double BestEvalLoss(const store::JobRecord& record);

  // loop_rewards.cc
  rewards::RewardHub::Host RewardHost();
  void TakeQuestion(const internal::v1::RewardQuestion& question);
  void RewardWorkerAttached(const v1::RewardHello& hello);
  // The job was paused for lack of a reward worker; one may have come meanwhile.
  void PausedForRewards(const v1::Job& job);

  const Options options_;
  store::Store* const store_;
  metrics::Metrics* const metrics_;
  EventBus* const bus_;
  supervisor::Backend* backend_ = nullptr;
  queue::Scheduler scheduler_;
  rewards::RewardHub rewards_;

  std::map<std::string, store::JobRecord> live_;      // jobs that have not ended, by name
  std::map<std::string, absl::Time> queued_since_;
  store::WriteBatch pending_;                         // of the worker, not durable yet; without jobs
  std::set<std::string> dirty_;                       // jobs of live_ ahead of the store
  absl::Time flush_at_ = absl::InfiniteFuture();
  absl::Time looked_at_ = absl::InfiniteFuture();     // when Clock() was asked last
  absl::Time tick_at_ = absl::InfinitePast();         // when the scheduler wants to look at the clock
  // Words of the worker in their order. One that cannot be stored is tried again later.
  std::deque<std::function<absl::Status()>> inbox_;
  absl::Time retry_at_ = absl::InfinitePast();
  int worker_ = 0;                                    // number of the process that counts
  int64_t said_ = 0, acknowledged_ = 0;               // message sequences of that process
  bool alive_ = false, progress_ = false;             // signs of life since the last round
  internal::v1::WorkerHeartbeat last_beat_;
  std::map<uint64_t, int64_t> xids_;                  // counts when last looked at
  std::pair<int64_t, absl::Time> pace_start_;         // step and time that the pace counts from
  std::map<std::string, double> best_eval_;
  DeviceTime device_time_;                            // kept when there is a quota of it
  absl::Time housekeeping_at_ = absl::InfinitePast();
  absl::Time forget_requests_at_ = absl::InfinitePast();
  std::optional<internal::v1::WorkerHello> hello_;
  int64_t context_bytes_ = 0;                         // WorkerStatus::context_bytes
  std::string problem_;
  int64_t last_sample_ = 0;
  std::map<int64_t, std::shared_ptr<SampleSink>> samples_;      // that have not ended, by number
  std::vector<internal::v1::RunSample> waiting_samples_;        // for the worker to start

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;           // guarded by mutex_
  bool stopping_ = false;                             // guarded by mutex_
  bool ended_ = true;                                 // guarded by mutex_: tasks are not taken
  std::thread thread_;

  struct View {
    std::map<std::string, queue::Wait> waits;
    WorkerStatus worker;
    bool accepting = true;
    std::map<std::string, absl::Time> starts;         // estimates, of queued jobs whose turn is known
  };
  mutable std::mutex view_mutex_;
  View view_;                                         // guarded by view_mutex_
};

}  // namespace finetuned::jobs
