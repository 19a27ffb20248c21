#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/config/config.h"
#include "server/jobs/subscription.h"
#include "server/metrics/metrics.h"
#include "server/queue/scheduler.h"
#include "server/rewards/hub.h"
#include "server/store/store.h"
#include "server/supervisor/backend.h"

// The one object the API calls about jobs.
namespace finetuned::jobs {

// Who calls, and what makes a repeated call the same call.
struct Caller {
  std::string principal;    // "unix:1000", "token:ab12"
  std::string request_id;   // empty: not repeatable
  std::string fingerprint;  // store::Fingerprint(request)
};

// What ListJobs asks for.
struct ListQuery {
  int page_size = 0;        // 0: 50, at most 1000
  std::string page_token;   // of an earlier answer with the same order
  std::string order_by;     // as sent: "create_time desc" (default), "create_time", "priority desc"
  store::JobFilter filter;  // what the store can leave out by itself
  std::function<bool(const v1::Job&)> matches;  // the whole filter; empty: all
};
struct ListAnswer {
  std::vector<v1::Job> jobs;
  std::string next_page_token;
};

struct WorkerStatus {
  queue::WorkerState state = queue::WorkerState::kStopped;
  std::string job;          // that has the device
  // What the newest worker said of itself and the device, remembered over restarts; unset: never seen.
  std::optional<internal::v1::WorkerHello> hello;
  std::string problem;      // why the last worker ended, when it was not asked to
  // Of the device, beside tensors: context and loaded kernels of a worker, the most seen on this kind of device; 0: not
  // measured yet.
  int64_t context_bytes = 0;
};

// Receives what Sample generates. Called on the scheduler's thread, in order; must not block.
class SampleSink {
 public:
  virtual ~SampleSink() = default;
  virtual void OnPiece(const v1::SampleResponse& piece) = 0;
  // The end: nothing follows. OK, or why it ended early (UNAVAILABLE: a job took the device, the worker ended).
  virtual void OnDone(const absl::Status& status) = 0;
};

// Owns the queue. One thread, the scheduler's, takes all inputs (calls of the API, messages of the
// worker, time) one after another; each is made durable before anyone is told. All methods may be called
// from any thread; those that change something wait for their turn and one disk sync (milliseconds).
//
// Errors carry google.rpc details (errors.h). Of every mutation: NOT_FOUND; ABORTED when `etag` is not
// empty and not the current one; FAILED_PRECONDITION when the state does not allow it; UNAVAILABLE or
// RESOURCE_EXHAUSTED from the store; INVALID_ARGUMENT for a request_id used for something else.
class JobManager : private supervisor::WorkerEvents {
 public:
  struct Options {
    const config::Config* config = nullptr;
    std::string version;
    absl::Duration commit_delay = absl::Milliseconds(50);  // worker events wait at most this long
    // Called on the scheduler's thread each time it went round (systemd's watchdog).
    std::function<void()> on_loop;
    // The queue is drained and the worker has left.
    std::function<void()> on_drained;
  };
  JobManager(Options options, store::Store* store, metrics::Metrics* metrics);
  ~JobManager();

  // Takes over the queue from the store and starts the scheduler. `backend` must outlive Stop().
  absl::Status Start(supervisor::Backend* backend);
  // Ends the scheduler's thread without waiting for jobs; watchers get UNAVAILABLE. Idempotent.
  void Stop();
  supervisor::WorkerEvents* worker_events() { return this; }

  // Stores and queues. `job` comes with spec, resolved_spec, memory, scheduling, labels, display_name
  // and ttl; the rest is filled in here. `job_id` empty: chosen. ALREADY_EXISTS; RESOURCE_EXHAUSTED when
  // the queue is full; UNAVAILABLE when draining.
  absl::StatusOr<v1::Job> CreateJob(v1::Job job, const std::string& job_id, const Caller& caller);

  absl::StatusOr<v1::Job> CancelJob(const v1::CancelJobRequest& request, const Caller& caller);
  absl::StatusOr<v1::Job> PauseJob(const v1::PauseJobRequest& request, const Caller& caller);
  absl::StatusOr<v1::Job> ResumeJob(const v1::ResumeJobRequest& request, const Caller& caller);
  absl::StatusOr<v1::Job> RetryJob(const v1::RetryJobRequest& request, const Caller& caller);
  absl::StatusOr<v1::Job> StopJob(const v1::StopJobRequest& request, const Caller& caller);
  absl::StatusOr<v1::Job> CheckpointJob(const v1::CheckpointJobRequest& request, const Caller& caller);
  // update_mask: labels, display_name, ttl, scheduling, scheduling.FIELD. Validated by the API.
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request, const Caller& caller);
  // Of an ended job, with its directory; with force also the adapter it made.
  absl::Status DeleteJob(const v1::DeleteJobRequest& request, const Caller& caller);

  // With queue position and, while queued, what it waits for.
  absl::StatusOr<v1::Job> GetJob(const std::string& name) const;
  // INVALID_ARGUMENT: order_by or page_token.
  absl::StatusOr<ListAnswer> ListJobs(const ListQuery& query) const;

  // Events of the job after `after_sequence`. -1: only those still to come.
  absl::StatusOr<std::shared_ptr<Subscription>> Subscribe(const std::string& name, int64_t after_sequence);

  // Attached reward workers; usable between Start and Stop.
  rewards::RewardHub& rewards();

  // Generates on the worker, which is started if need be, while no job has it; the answer is the sample's number, what
  // follows goes to `sink`. UNAVAILABLE with RetryInfo: a job has the device. RESOURCE_EXHAUSTED: many samples wait.
  absl::StatusOr<int64_t> Sample(internal::v1::RunSample sample, std::shared_ptr<SampleSink> sink);
  // The sink gets OnDone(CANCELLED), unless it had its end already.
  void CancelSample(int64_t id);

  // A job that has not ended needs this dataset.
  bool UsesDataset(const std::string& name) const;
  // Whether a job that has not ended starts from it.
  bool UsesAdapter(const std::string& name) const;
  WorkerStatus Worker() const;
  bool accepting() const;   // false once draining
  // No new jobs; the running one writes a checkpoint and is queued (or PAUSED). on_drained follows.
  void Drain(absl::Duration grace, bool pause_running);

 private:
  class Loop;
  void OnWorkerReady(int worker, const internal::v1::WorkerHello& hello) override;
  void OnWorkerMessage(int worker, internal::v1::WorkerMessage message) override;
  void OnWorkerExit(int worker, const std::string& how, const std::string& log) override;

  store::Store* const store_;
  EventBus bus_;
  std::unique_ptr<Loop> loop_;
};

// What the API's services are made of. server/main.cc calls
//   std::unique_ptr<api::Services> api::RegisterServices(const jobs::Daemon&, grpc::ServerBuilder&)
// of server/api/server.h, which registers all services and keeps the answer until the server has shut
// down. Listeners, health and reflection are main.cc's.
struct Daemon {
  const config::Config* config = nullptr;
  store::Store* store = nullptr;
  JobManager* jobs = nullptr;
  metrics::Metrics* metrics = nullptr;
  std::string version;
  std::string instance_id;
  absl::Time start_time;
};

}  // namespace finetuned::jobs
