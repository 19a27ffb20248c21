#include "server/queue/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace finetuned::queue {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Seconds(1);
constexpr absl::Duration kLongestBackoff = absl::Minutes(1);

bool DrainedOff(const JobEntry& job) {
  return job.state == v1::PAUSING && job.reason == v1::DAEMON_DRAINING;
}

bool GivesWay(const JobEntry& job) { return job.state == v1::PAUSING && job.reason == v1::PREEMPTED; }

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, DependencyFate succeeded)
    : options_(options), succeeded_(std::move(succeeded)) {}

std::vector<Action> Scheduler::Boot(std::vector<JobEntry> jobs, absl::Time now) {
  undo_ = {};
  actions_.clear();
  for (JobEntry& job : jobs) jobs_[job.name] = std::move(job);
  std::vector<std::string> names;
  for (const auto& [name, job] : jobs_) names.push_back(name);
  for (const std::string& name : names) {
    JobEntry& job = jobs_[name];
    if (!HoldsDevice(job.state) && job.state != v1::VALIDATING) continue;
    const char* message = "the daemon was started again";
    if (job.state == v1::CANCELLING && job.reason != v1::USER_REQUESTED) {
      MustFire(name, JobEvent::kFail, job.reason, job.message, now);
    } else if (DrainedOff(job) || GivesWay(job)) {
      job.front = true;
      MustFire(name, JobEvent::kRequeue, v1::DAEMON_RESTARTED, message, now);
    } else {
      const bool users = job.state == v1::PAUSING || job.state == v1::CANCELLING;
      job.front = !users;
      const bool no_rewards = job.state == v1::PAUSING && job.reason == v1::WAITING_FOR_REWARD_WORKER;
      MustFire(name, JobEvent::kRestart,
               no_rewards ? job.reason : users ? v1::USER_REQUESTED : v1::DAEMON_RESTARTED, message, now);
    }
  }
  return std::move(actions_);
}

absl::StatusOr<std::vector<Action>> Scheduler::Step(const Input& input, absl::Time now) {
  undo_ = {{}, {}, worker_, draining_, pause_running_, drained_};
  open_ = true;
  actions_.clear();
  absl::Status status = std::visit([&](const auto& in) { return Take(in, now); }, input);
  if (!status.ok()) {
    Rollback();
    return status;
  }
  CheckDeadlines(now);
  SettleDependencies(now);
  StartNext(now);
  std::stable_partition(actions_.begin(), actions_.end(),
                        [](const Action& a) { return std::holds_alternative<StateChange>(a); });
  return std::move(actions_);
}

void Scheduler::Commit() { open_ = false; }

void Scheduler::Rollback() {
  if (!open_) return;
  open_ = false;
  for (auto& [name, job] : undo_.jobs) {
    if (job) {
      jobs_[name] = *std::move(job);
    } else {
      jobs_.erase(name);
    }
  }
  for (const auto& [name, succeeded] : undo_.ended) {
    if (succeeded) {
      ended_[name] = *succeeded;
    } else {
      ended_.erase(name);
    }
  }
  worker_ = undo_.worker;
  draining_ = undo_.draining;
  pause_running_ = undo_.pause_running;
  drained_ = undo_.drained;
}

void Scheduler::Excuse(absl::Duration time) {
  worker_.last_sign += time;
  worker_.last_progress += time;
  worker_.kill_at += time;
}

// ---- changes

absl::Status Scheduler::Fire(const std::string& name, JobEvent event, v1::StateReason reason,
                             std::string message, absl::Time now) {
  const auto found = jobs_.find(name);
  if (found == jobs_.end()) return absl::NotFoundError(absl::StrCat(name, " is not in the queue"));
  const auto transition = FindTransition(event, found->second.state);
  if (!transition.ok()) return transition.status();
  JobEntry& job = Touch(name);
  const v1::JobState from = job.state;
  Apply(&job, **transition, now);
  if (job.state == from) return absl::OkStatus();
  job.reason = reason;
  job.message = message;
  actions_.push_back(StateChange{name, event, from, job.state, reason, std::move(message),
                                 (*transition)->effect, job.front, job.order, job.crashes});
  if (IsTerminal(job.state)) {
    SetEnded(name, job.state == v1::SUCCEEDED);
    jobs_.erase(name);
  }
  return absl::OkStatus();
}

void Scheduler::MustFire(const std::string& name, JobEvent event, v1::StateReason reason,
                         std::string message, absl::Time now) {
  // Callers may pass the entry's own name, which goes with the entry.
  const std::string job = name;
  const absl::Status status = Fire(job, event, reason, std::move(message), now);
  if (status.ok()) return;
  std::fprintf(stderr, "scheduler: %s\n", std::string(status.message()).c_str());
  std::abort();
}

void Scheduler::Apply(JobEntry* job, const Transition& transition, absl::Time now) {
  job->state = transition.to;
  switch (transition.effect) {
    case Effect::kNone: break;
    case Effect::kBeginAttempt:
      job->started = now;
      job->front = false;
      break;
    case Effect::kSignalCheckpoint:
      actions_.push_back(SignalJob{job->name, SignalKind::kCheckpoint});
      break;
    case Effect::kSignalFinish: actions_.push_back(SignalJob{job->name, SignalKind::kFinish}); break;
    case Effect::kSignalLeave:
      if (worker_.running) actions_.push_back(SignalJob{job->name, SignalKind::kLeave});
      break;
    case Effect::kSignalCancel:
      if (worker_.running) actions_.push_back(SignalJob{job->name, SignalKind::kCancel});
      break;
    case Effect::kEndAttempt:
    case Effect::kEndJob:
      if (job->started != absl::InfinitePast()) job->ran_before += now - job->started;
      job->started = absl::InfinitePast();
      break;
  }
}

void Scheduler::LetGo(absl::Time now) {
  const std::string name = worker_.job;
  const JobEntry& job = jobs_.at(name);
  const v1::StateReason reason = job.reason;
  if (job.state == v1::CANCELLING) {
    const bool user = reason == v1::USER_REQUESTED;
    MustFire(name, user ? JobEvent::kCancelled : JobEvent::kFail, reason, job.message, now);
  } else if (DrainedOff(job) && !pause_running_) {
    Touch(name).front = true;
    MustFire(name, JobEvent::kRequeue, v1::DAEMON_DRAINING, "goes on when the daemon runs again", now);
  } else if (GivesWay(job)) {
    Touch(name).front = true;
    MustFire(name, JobEvent::kRequeue, v1::PREEMPTED, job.message, now);
  } else {
    MustFire(name, JobEvent::kLeft, reason, job.message, now);
  }
}

void Scheduler::Crash(v1::StateReason reason, const std::string& message, absl::Time now) {
  const std::string name = worker_.job;
  JobEntry& job = Touch(name);
  const int limit = job.max_crashes > 0 ? job.max_crashes : options_.max_crashes;
  ++job.crashes;
  if (job.crashes >= limit) {
    MustFire(name, JobEvent::kFail, reason,
             absl::StrCat(message, " (", job.crashes, job.crashes == 1 ? " time)" : " times)"), now);
    return;
  }
  const absl::Duration backoff = std::min(kFirstBackoff * (1 << std::min(job.crashes - 1, 10)),
                                          kLongestBackoff);
  worker_.start_after = now + backoff;
  job.front = true;
  MustFire(name, JobEvent::kRequeue, reason, message, now);
}

void Scheduler::ReleaseDevice(absl::Time now) {
  worker_.job.clear();
  worker_.running = false;
  if (worker_.state == WorkerState::kBusy) {
    worker_.state = WorkerState::kIdle;
    worker_.idle_since = now;
    worker_.kill_at = absl::InfiniteFuture();
    worker_.kill_why.clear();
  }
}

void Scheduler::Kill(std::string why, v1::StateReason reason) {
  actions_.push_back(KillWorker{why});
  worker_.state = WorkerState::kStopping;
  worker_.end_reason = reason;
  worker_.kill_at = absl::InfiniteFuture();
  worker_.kill_why = std::move(why);
}

void Scheduler::StopIdleWorker(absl::Time now) {
  if (worker_.state != WorkerState::kIdle) return;
  actions_.push_back(StopWorker{});
  worker_.state = WorkerState::kStopping;
  worker_.kill_at = now + options_.leave_grace;
  worker_.kill_why = absl::StrCat("did not leave within ", InSeconds(options_.leave_grace));
}

void Scheduler::CheckDeadlines(absl::Time now) {
  CheckWorkerLife(now);
  const JobEntry* job = Find(worker_.job);
  if (job == nullptr || !worker_.running || worker_.state != WorkerState::kBusy) return;
  const bool limited = job->state == v1::PREPARING || job->state == v1::RUNNING;
  if (limited && job->ran_before + (now - job->started) >= job->max_run) {
    MustFire(job->name, JobEvent::kCancel, v1::MAX_RUN_DURATION_EXCEEDED,
             absl::StrCat("it ran longer than its limit of ", absl::FormatDuration(job->max_run)), now);
    worker_.kill_at = now + options_.cancel_grace;
    worker_.kill_why = absl::StrCat("did not cancel within ", InSeconds(options_.cancel_grace));
  }
}

void Scheduler::CheckWorkerLife(absl::Time now) {
  if (worker_.kill_at <= now) {
    Kill(worker_.kill_why);
  } else if (worker_.state == WorkerState::kBusy &&
             now - worker_.last_sign >= options_.heartbeat_timeout) {
    Kill(absl::StrCat("gave no sign of life for ", InSeconds(options_.heartbeat_timeout)), v1::WORKER_STALLED);
  } else if (worker_.state == WorkerState::kBusy &&
             now - worker_.last_progress >= options_.progress_timeout) {
    Kill(absl::StrCat("made no progress for ", InSeconds(options_.progress_timeout)), v1::WORKER_STALLED);
  } else if (worker_.state == WorkerState::kIdle && worker_.job.empty() &&
             now - worker_.idle_since >= options_.idle_timeout) {
    StopIdleWorker(now);
  }
}

void Scheduler::SettleDependencies(absl::Time now) {
  // A failure may orphan further jobs: again until nothing changes.
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& [name, job] : jobs_) {
      if (job.state != v1::QUEUED || job.after.empty()) continue;
      const std::string& dependency = job.after.back();
      if (jobs_.contains(dependency)) continue;
      const auto ended = ended_.find(dependency);
      changed = true;
      if (ended != ended_.end() ? ended->second : succeeded_(dependency)) {
        Touch(name).after.pop_back();
      } else {
        MustFire(name, JobEvent::kFail, v1::DEPENDENCY_FAILED,
                 absl::StrCat(dependency, ", which it waits for, did not succeed"), now);
      }
      break;
    }
  }
}

void Scheduler::LeaveWhenFree(absl::Time now) {
  if (!worker_.job.empty()) return;
  if (worker_.state == WorkerState::kStarting) {
    Kill("is not needed: the daemon leaves");
  } else if (worker_.state == WorkerState::kIdle) {
    StopIdleWorker(now);
  } else if (worker_.state == WorkerState::kStopped && !drained_) {
    drained_ = true;
    actions_.push_back(Drained{});
  }
}

void Scheduler::StartNext(absl::Time now) {
  if (draining_) return LeaveWhenFree(now);
  if (worker_.state == WorkerState::kStopping) return;
  if (!worker_.job.empty() && !MakeRoom(now)) return;
  if (worker_.state == WorkerState::kStopped && now < worker_.start_after) return;
  if (const JobEntry* job = First(now)) StartOn(*job, now);
}

// A preemptible holder gives way to the first job that could run, when that has a higher priority. True: the device is
// free now, because the worker had not been given the holder yet.
bool Scheduler::MakeRoom(absl::Time now) {
  const JobEntry* holder = Find(worker_.job);
  if (holder == nullptr || !holder->preemptible) return false;
  // One that is loading gives way once it has loaded: a worker that is killed for not leaving would load again.
  if (holder->state != (worker_.running ? v1::RUNNING : v1::PREPARING)) return false;
  const JobEntry* waiting = First(now);
  if (waiting == nullptr || waiting->priority <= holder->priority) return false;
  MustFire(holder->name, JobEvent::kPreempt, v1::PREEMPTED,
           absl::StrCat("gives way to ", waiting->name, ", whose priority is ", waiting->priority), now);
  if (worker_.running) {
    worker_.kill_at = std::min(worker_.kill_at, now + options_.leave_grace);
    worker_.kill_why = absl::StrCat("did not leave within ", InSeconds(options_.leave_grace));
    return false;
  }
  LetGo(now);
  ReleaseDevice(now);
  return true;
}

void Scheduler::StartOn(const JobEntry& job, absl::Time now) {
  const std::string name = job.name;
  MustFire(name, JobEvent::kStart, v1::STATE_REASON_UNSPECIFIED, "", now);
  worker_.job = name;
  if (worker_.state == WorkerState::kIdle) return Begin(name, now);
  Take(Prestart{}, now).IgnoreError();
}

void Scheduler::Begin(const std::string& job, absl::Time now) {
  actions_.push_back(RunJob{job});
  worker_.state = WorkerState::kBusy;
  worker_.running = true;
  worker_.kill_why.clear();
  worker_.last_sign = worker_.last_progress = now;
}

JobEntry& Scheduler::Touch(const std::string& name) {
  const auto found = jobs_.find(name);
  undo_.jobs.emplace(name, found == jobs_.end() ? std::nullopt : std::optional<JobEntry>(found->second));
  return jobs_[name];
}

void Scheduler::SetEnded(const std::string& name, bool succeeded) {
  const auto found = ended_.find(name);
  undo_.ended.emplace(name, found == ended_.end() ? std::nullopt : std::optional<bool>(found->second));
  ended_[name] = succeeded;
}

const JobEntry* Scheduler::Find(const std::string& name) const {
  const auto found = jobs_.find(name);
  return found == jobs_.end() ? nullptr : &found->second;
}

}  // namespace finetuned::queue
