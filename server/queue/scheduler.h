#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/v1/state.pb.h"
#include "server/queue/state_machine.h"

// The core of the queue: which job runs next, and what has to happen when something happens. No I/O, no
// clock, no threads: inputs and the time go in, actions come out.
namespace finetuned::queue {

// What the core knows of a job that has not ended.
struct JobEntry {
  std::string name;                    // jobs/{job}
  v1::JobState state = v1::QUEUED;
  v1::StateReason reason = v1::STATE_REASON_UNSPECIFIED;
  std::string message;                 // why it is in this state
  int priority = 0;                    // larger first
  bool front = false;                  // ahead of equal priorities
  int64_t order = 0;                   // smaller first
  bool hold = false;
  bool preemptible = false;            // gives way to a job of a higher priority
  absl::Time not_before = absl::InfinitePast();
  std::vector<std::string> after;      // names of jobs that must have succeeded
  int crashes = 0;
  int max_crashes = 0;                 // 0: SchedulerOptions::max_crashes
  absl::Duration max_run = absl::InfiniteDuration();
  absl::Duration ran_before = absl::ZeroDuration();  // holding the device, earlier attempts
  absl::Time started = absl::InfinitePast();         // this attempt; InfinitePast: none
};

struct SchedulerOptions {
  int max_crashes = 3;
  absl::Duration start_timeout = absl::Seconds(60);      // from start to hello
  absl::Duration heartbeat_timeout = absl::Seconds(30);  // between signs of life of a busy worker
  absl::Duration progress_timeout = absl::Minutes(30);   // between steps or phases
  absl::Duration cancel_grace = absl::Seconds(30);       // from CANCEL to kill
  absl::Duration leave_grace = absl::Seconds(60);        // from LEAVE to kill
  absl::Duration idle_timeout = absl::Minutes(10);       // idle worker stays warm; infinite: for ever
};

// ---- inputs

struct Submit { JobEntry job; };                 // state QUEUED
struct UserRequest {                             // kCheckpoint, kStop, kPause, kResume or kCancel
  std::string job;
  JobEvent event = JobEvent::kCancel;
  std::string message;                           // who and why, shown to people
  absl::Duration grace = absl::ZeroDuration();   // kPause: until the worker is killed; 0: default
};
struct RetryJob { JobEntry job; };               // the ended job, as it is to be queued
struct Reschedule {                              // new scheduling of a job that has not ended
  std::string job;
  int priority = 0;
  bool hold = false;
  absl::Time not_before = absl::InfinitePast();
  std::vector<std::string> after;
  absl::Duration max_run = absl::InfiniteDuration();
  int max_crashes = 0;
  bool preemptible = false;
};
struct WorkerReady {};                           // said hello
struct WorkerAlive {                             // heartbeat or event
  bool progress = false;                         // a step, a phase or another event
};
struct WorkerPhase { std::string job; std::string phase; };
struct WorkerDone {                              // the job's run is over, the worker lives
  std::string job;
  int outcome = 0;                               // 0 65 70 75 78 79
  v1::StateReason reason = v1::STATE_REASON_UNSPECIFIED;
  std::string message;
  bool infrastructure = false;         // neither the job nor its data are to blame: counts as a crash
};
struct WorkerGone { std::string message; };      // the process has ended
struct DeviceFailed { std::string message; };    // the driver says so: the worker that uses it is of no more use
struct RewardWorkerLost {                        // nobody scores the job's completions: it gives up the device
  std::string job;
  std::string message;
};
struct RewardWorkerFound { std::string job; };   // a job paused for lack of one goes back to the queue
struct Prestart {};                              // start a worker without a job
struct Tick {};                                  // time has passed
struct Drain { absl::Duration grace; bool pause_running = false; };

using Input = std::variant<Submit, UserRequest, RetryJob, Reschedule, WorkerReady, WorkerAlive,
                           WorkerPhase, WorkerDone, WorkerGone, DeviceFailed, RewardWorkerLost, RewardWorkerFound,
                           Prestart, Tick, Drain>;

// ---- actions. All StateChange come first; they are made durable before the rest is done.

struct StateChange {
  std::string job;
  JobEvent event;
  v1::JobState from, to;
  v1::StateReason reason;
  std::string message;
  Effect effect;
  bool front = false;
  int64_t order = 0;
  int crashes = 0;
};
struct StartWorker {};
struct StopWorker {};                            // ask it to leave
struct KillWorker { std::string why; };
struct RunJob { std::string job; };              // on the ready worker
enum class SignalKind { kCheckpoint, kLeave, kFinish, kCancel };
struct SignalJob { std::string job; SignalKind kind; };
struct Drained {};                               // the device is free: the daemon may leave

using Action = std::variant<StateChange, StartWorker, StopWorker, KillWorker, RunJob, SignalJob, Drained>;

enum class WorkerState { kStopped, kStarting, kIdle, kBusy, kStopping };
const char* WorkerStateName(WorkerState state);  // "idle"

std::string InSeconds(absl::Duration duration);  // "30 s", rounded up

// Why a queued job does not run, and its place.
struct Wait {
  int position = 0;                    // 1: next; held jobs and such come after those that could run
  v1::StateReason reason = v1::WAITING_FOR_GPU;
  std::string why;                     // one sentence
};

class Scheduler {
 public:
  // `succeeded` tells the fate of a dependency that is not in the queue: true when it succeeded, false
  // when it failed, was cancelled or does not exist.
  using DependencyFate = std::function<bool(const std::string& job)>;
  Scheduler(SchedulerOptions options, DependencyFate succeeded);

  // Takes over what the store holds: jobs found on the device go back to the queue.
  std::vector<Action> Boot(std::vector<JobEntry> jobs, absl::Time now);

  // Takes one input. An error (NOT_FOUND, FAILED_PRECONDITION) changes nothing. After success the
  // caller makes the state changes durable and calls Commit, or Rollback when that failed; then it
  // does the other actions. Both do nothing when no step is open.
  absl::StatusOr<std::vector<Action>> Step(const Input& input, absl::Time now);
  void Commit();
  void Rollback();

  // The caller itself was held up for so long (a disk that hung, a stopped process) and heard nobody: that time is not
  // held against the worker. Between steps.
  void Excuse(absl::Duration time);

  // When Step(Tick) has to be called next, at the latest.
  absl::Time NextDeadline(absl::Time now) const;

  const JobEntry* Find(const std::string& job) const;
  // Every queued job, in the order in which they would run.
  std::map<std::string, Wait> Waits(absl::Time now) const;
  size_t queued() const;
  WorkerState worker() const { return worker_.state; }
  bool draining() const { return draining_; }
  // The job that has the device; empty: none.
  const std::string& holder() const { return worker_.job; }

 private:
  struct Worker {
    WorkerState state = WorkerState::kStopped;
    std::string job;                   // that has the device
    bool running = false;              // RunJob was sent
    bool killed = false;               // by us
    v1::StateReason end_reason = v1::WORKER_CRASHED;  // of the attempt, when the process ends
    absl::Time kill_at = absl::InfiniteFuture();
    std::string kill_why;
    absl::Time last_sign = absl::InfinitePast();
    absl::Time last_progress = absl::InfinitePast();
    absl::Time idle_since = absl::InfinitePast();
    absl::Time start_after = absl::InfinitePast();  // back-off after a crash
  };
  // What Rollback restores.
  struct Undo {
    std::map<std::string, std::optional<JobEntry>> jobs;
    std::map<std::string, std::optional<bool>> ended;
    Worker worker;
    bool draining = false, pause_running = false, drained = false;
  };

  absl::Status Take(const Submit& in, absl::Time now);
  absl::Status Take(const UserRequest& in, absl::Time now);
  absl::Status Take(const RetryJob& in, absl::Time now);
  absl::Status Take(const Reschedule& in, absl::Time now);
  absl::Status Take(const WorkerReady& in, absl::Time now);
  absl::Status Take(const WorkerAlive& in, absl::Time now);
  absl::Status Take(const WorkerPhase& in, absl::Time now);
  absl::Status Take(const WorkerDone& in, absl::Time now);
  absl::Status Take(const WorkerGone& in, absl::Time now);
  absl::Status Take(const DeviceFailed& in, absl::Time now);
  absl::Status Take(const RewardWorkerLost& in, absl::Time now);
  absl::Status Take(const RewardWorkerFound& in, absl::Time now);
  absl::Status Take(const Prestart& in, absl::Time now);
  absl::Status Take(const Tick& in, absl::Time now);
  absl::Status Take(const Drain& in, absl::Time now);

  // Applies `event` to the job: looks it up in the table, changes the entry, appends the actions.
  absl::Status Fire(const std::string& job, JobEvent event, v1::StateReason reason, std::string message,
                    absl::Time now);
  // The same for an event that the table allows in the states it is used in.
  void MustFire(const std::string& job, JobEvent event, v1::StateReason reason, std::string message,
                absl::Time now);
  void Apply(JobEntry* job, const Transition& transition, absl::Time now);
  // The holder let go without a result, as it was told to or because its process ended.
  void LetGo(absl::Time now);
  void Crash(v1::StateReason reason, const std::string& message, absl::Time now);
  void ReleaseDevice(absl::Time now);
  void CheckDeadlines(absl::Time now);
  void CheckWorkerLife(absl::Time now);
  void SettleDependencies(absl::Time now);
  void StartNext(absl::Time now);
  bool MakeRoom(absl::Time now);
  void LeaveWhenFree(absl::Time now);
  void StartOn(const JobEntry& job, absl::Time now);
  void Begin(const std::string& job, absl::Time now);
  // Why the job cannot have the device even if it were free; WAITING_FOR_GPU: it could.
  static v1::StateReason Blocked(const JobEntry& job, absl::Time now);
  // The job that would get the device now; nullptr: none could.
  const JobEntry* First(absl::Time now) const;
  std::string Why(const JobEntry& job, const Wait& wait, const std::string& before, absl::Time now) const;
  JobEntry& Touch(const std::string& job);
  void SetEnded(const std::string& job, bool succeeded);
  void Kill(std::string why, v1::StateReason reason = v1::WORKER_CRASHED);
  void StopIdleWorker(absl::Time now);

  const SchedulerOptions options_;
  const DependencyFate succeeded_;
  std::map<std::string, JobEntry> jobs_;
  std::map<std::string, bool> ended_;  // jobs that ended since the start: did they succeed?
  Worker worker_;
  bool draining_ = false;
  bool pause_running_ = false;
  bool drained_ = false;
  std::vector<Action> actions_;
  bool open_ = false;                  // between Step and Commit or Rollback
  Undo undo_;
};

}  // namespace finetuned::queue
