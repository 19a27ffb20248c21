// What each input does to the queue; part of Scheduler.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/queue/scheduler.h"

namespace finetuned::queue {

std::string InSeconds(absl::Duration d) {
  return absl::StrCat(absl::ToInt64Seconds(absl::Ceil(d, absl::Seconds(1))), " s");
}

absl::Status Scheduler::Take(const Submit& in, absl::Time now) {
  Touch(in.job.name) = in.job;
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const RetryJob& in, absl::Time now) {
  Touch(in.job.name) = in.job;
  undo_.ended.emplace(in.job.name, ended_.contains(in.job.name)
                                       ? std::optional<bool>(ended_[in.job.name])
                                       : std::nullopt);
  ended_.erase(in.job.name);
  return Fire(in.job.name, JobEvent::kRetry, v1::USER_REQUESTED, in.job.message, now);
}

absl::Status Scheduler::Take(const UserRequest& in, absl::Time now) {
  absl::Status status = Fire(in.job, in.event, v1::USER_REQUESTED, in.message, now);
  if (!status.ok() || in.job != worker_.job) return status;
  if (!worker_.running) {
    // The worker has not been given the job yet: there is nobody to wait for.
    LetGo(now);
    ReleaseDevice(now);
  } else if (in.event == JobEvent::kCancel) {
    worker_.kill_at = now + options_.cancel_grace;
    worker_.kill_why = absl::StrCat("did not cancel within ", InSeconds(options_.cancel_grace));
  } else if (in.event == JobEvent::kPause) {
    const absl::Duration grace = in.grace > absl::ZeroDuration() ? in.grace : options_.leave_grace;
    worker_.kill_at = now + grace;
    worker_.kill_why = absl::StrCat("did not pause within ", InSeconds(grace));
  }
  return status;
}

absl::Status Scheduler::Take(const Reschedule& in, absl::Time now) {
  if (!jobs_.contains(in.job)) return absl::NotFoundError(absl::StrCat(in.job, " is not in the queue"));
  JobEntry& job = Touch(in.job);
  job.priority = in.priority;
  job.hold = in.hold;
  job.not_before = in.not_before;
  job.after = in.after;
  job.max_run = in.max_run;
  job.max_crashes = in.max_crashes;
  job.preemptible = in.preemptible;
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const WorkerReady&, absl::Time now) {
  if (worker_.state != WorkerState::kStarting) return absl::OkStatus();
  worker_.state = WorkerState::kIdle;
  worker_.idle_since = now;
  worker_.kill_at = absl::InfiniteFuture();
  if (!worker_.job.empty()) Begin(worker_.job, now);
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const WorkerAlive& in, absl::Time now) {
  worker_.last_sign = now;
  if (worker_.state == WorkerState::kIdle) worker_.idle_since = now;  // it generates for somebody
  if (in.progress) worker_.last_progress = now;
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const WorkerPhase& in, absl::Time now) {
  worker_.last_sign = worker_.last_progress = now;
  const JobEntry* job = Find(in.job);
  if (job == nullptr || in.job != worker_.job) return absl::OkStatus();
  const bool runs = in.phase == "training" || in.phase == "writing" || in.phase == "evaluating";
  if (runs && job->state == v1::PREPARING) {
    return Fire(in.job, JobEvent::kTrain, v1::STATE_REASON_UNSPECIFIED, "", now);
  }
  if (in.phase == "exporting" && (job->state == v1::RUNNING || job->state == v1::PREPARING)) {
    return Fire(in.job, JobEvent::kExport, v1::STATE_REASON_UNSPECIFIED, "", now);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const WorkerDone& in, absl::Time now) {
  const JobEntry* job = Find(in.job);
  if (job == nullptr || in.job != worker_.job) return absl::OkStatus();
  if (job->state == v1::CANCELLING || (in.outcome == 75 && job->state == v1::PAUSING)) {
    LetGo(now);
  } else if (in.outcome == 0) {
    MustFire(in.job, JobEvent::kSucceed, v1::STATE_REASON_UNSPECIFIED, in.message, now);
  } else if (in.outcome == 75 && in.reason == v1::OUT_OF_DEVICE_MEMORY) {
    // Another process holds the memory: trying again at once would find the same.
    MustFire(in.job, JobEvent::kLeft, in.reason, in.message, now);
  } else if (in.outcome == 75) {
    Touch(in.job).front = true;
    MustFire(in.job, JobEvent::kRequeue, in.reason, "the worker left with a checkpoint", now);
  } else if (in.reason == v1::DISK_FULL) {
    MustFire(in.job, JobEvent::kLeft, v1::DISK_FULL,
             absl::StrCat(in.message, "; resume it when there is space"), now);
  } else if (in.infrastructure) {
    Crash(in.reason, in.message, now);
  } else {
    const bool named = in.reason != v1::STATE_REASON_UNSPECIFIED;
    MustFire(in.job, JobEvent::kFail, named ? in.reason : v1::INTERNAL_ERROR, in.message, now);
  }
  ReleaseDevice(now);
  // An internal error may have left the device's context unusable: the next job gets a fresh process.
  if (in.outcome == 70) StopIdleWorker(now);
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const WorkerGone& in, absl::Time now) {
  const JobEntry* job = Find(worker_.job);
  if (job != nullptr) {
    const bool told = job->state == v1::CANCELLING || job->state == v1::PAUSING;
    if (told) {
      LetGo(now);
    } else {
      const bool killed = worker_.state == WorkerState::kStopping;
      Crash(worker_.end_reason,
            killed ? absl::StrCat("the worker ", worker_.kill_why) : in.message, now);
    }
  }
  const absl::Time start_after = worker_.start_after;
  worker_ = Worker();
  worker_.start_after = start_after;
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const DeviceFailed& in, absl::Time) {
  if (worker_.state == WorkerState::kBusy) Kill(in.message, v1::GPU_XID_ERROR);
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const RewardWorkerLost& in, absl::Time now) {
  const JobEntry* job = Find(in.job);
  // Told of a job that stops anyway: late, not wrong.
  if (job == nullptr || in.job != worker_.job || job->state != v1::RUNNING) return absl::OkStatus();
  MustFire(in.job, JobEvent::kLoseReward, v1::WAITING_FOR_REWARD_WORKER, in.message, now);
  worker_.kill_at = now + options_.leave_grace;
  worker_.kill_why = absl::StrCat("did not pause within ", InSeconds(options_.leave_grace));
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const RewardWorkerFound& in, absl::Time now) {
  const JobEntry* job = Find(in.job);
  if (job == nullptr || job->state != v1::PAUSED || job->reason != v1::WAITING_FOR_REWARD_WORKER) {
    return absl::OkStatus();
  }
  return Fire(in.job, JobEvent::kFindReward, v1::WAITING_FOR_REWARD_WORKER, "a reward worker is attached", now);
}

absl::Status Scheduler::Take(const Prestart&, absl::Time now) {
  if (worker_.state == WorkerState::kStopped && !draining_) {
    actions_.push_back(StartWorker{});
    worker_.state = WorkerState::kStarting;
    worker_.kill_at = now + options_.start_timeout;
    worker_.kill_why = absl::StrCat("did not answer within ", InSeconds(options_.start_timeout));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Take(const Tick&, absl::Time) { return absl::OkStatus(); }

absl::Status Scheduler::Take(const Drain& in, absl::Time now) {
  draining_ = true;
  pause_running_ = in.pause_running;
  const JobEntry* job = Find(worker_.job);
  if (job == nullptr) return absl::OkStatus();
  if (job->state == v1::PREPARING || job->state == v1::RUNNING) {
    MustFire(job->name, JobEvent::kDrain, v1::DAEMON_DRAINING, "the daemon is leaving", now);
  }
  if (!worker_.running) {
    LetGo(now);
    ReleaseDevice(now);
  } else {
    const absl::Duration grace = in.grace > absl::ZeroDuration() ? in.grace : options_.leave_grace;
    worker_.kill_at = std::min(worker_.kill_at, now + grace);
    worker_.kill_why = absl::StrCat("did not leave within ", InSeconds(grace));
  }
  return absl::OkStatus();
}

}  // namespace finetuned::queue
