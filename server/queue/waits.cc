// Order of the queue and its explanation; part of Scheduler.
#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/queue/scheduler.h"

namespace finetuned::queue {

const char* WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kStopped: return "stopped";
    case WorkerState::kStarting: return "starting";
    case WorkerState::kIdle: return "idle";
    case WorkerState::kBusy: return "busy";
    case WorkerState::kStopping: return "stopping";
  }
  return "?";
}

// Why the job cannot have the device even if it were free; WAITING_FOR_GPU: it could.
Wait Scheduler::Explain(const JobEntry& job, absl::Time now) const {
  if (job.hold) return {0, v1::HELD, "It is on hold until it is released (scheduling.hold)."};
  if (!job.after.empty()) {
    return {0, v1::WAITING_FOR_DEPENDENCY,
            absl::StrCat("It waits for ", absl::StrJoin(job.after, ", "), " to succeed.")};
  }
  if (now < job.not_before) {
    return {0, v1::WAITING_FOR_START_TIME,
            absl::StrCat("It starts no earlier than ",
                         absl::FormatTime("%Y-%m-%d %H:%M:%SZ", job.not_before, absl::UTCTimeZone()), ".")};
  }
  return {};
}

// The order in which queued jobs would get the device: those that could run first, by priority, then
// re-queued ones, then by the time of queueing.
std::vector<const JobEntry*> Scheduler::Ordered(absl::Time now) const {
  struct Key {
    bool waits;
    int priority;
    bool behind;
    int64_t order;
    const JobEntry* job;
  };
  std::vector<Key> keys;
  for (const auto& [name, job] : jobs_) {
    if (job.state != v1::QUEUED) continue;
    const bool waits = Explain(job, now).reason != v1::WAITING_FOR_GPU;
    keys.push_back({waits, -job.priority, !job.front, job.order, &job});
  }
  std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
    return std::tie(a.waits, a.priority, a.behind, a.order, a.job->name) <
           std::tie(b.waits, b.priority, b.behind, b.order, b.job->name);
  });
  std::vector<const JobEntry*> jobs;
  for (const Key& key : keys) jobs.push_back(key.job);
  return jobs;
}

std::map<std::string, Wait> Scheduler::Waits(absl::Time now) const {
  std::map<std::string, Wait> waits;
  int position = 0;
  std::string before = worker_.job;
  for (const JobEntry* job : Ordered(now)) {
    Wait wait = Explain(*job, now);
    wait.position = ++position;
    if (draining_) {
      wait.reason = v1::DAEMON_DRAINING;
      wait.why = "The daemon is leaving; the job runs when it is started again.";
    } else if (wait.reason == v1::WAITING_FOR_GPU) {
      const JobEntry* holder = Find(worker_.job);
      if (position == 1 && holder != nullptr && holder->state == v1::PAUSING) {
        wait.why = absl::StrCat("It is next; ", before, " writes a checkpoint and gives up the device.");
      } else if (position == 1 && !before.empty()) {
        wait.why = absl::StrCat("It is next; ", before, " has the device.");
      } else if (position == 1 && now < worker_.start_after) {
        wait.why = "It is next; the worker ended and is started again in a moment.";
      } else if (position == 1) {
        wait.why = "It is next; the worker is being started.";
      } else {
        wait.why = absl::StrCat("Number ", position, " in the queue, behind ", before, ".");
      }
    }
    before = job->name;
    waits[job->name] = std::move(wait);
  }
  return waits;
}

size_t Scheduler::queued() const {
  return std::count_if(jobs_.begin(), jobs_.end(),
                       [](const auto& job) { return job.second.state == v1::QUEUED; });
}

absl::Time Scheduler::NextDeadline(absl::Time now) const {
  absl::Time next = worker_.kill_at;
  if (worker_.state == WorkerState::kBusy) {
    next = std::min({next, worker_.last_sign + options_.heartbeat_timeout,
                     worker_.last_progress + options_.progress_timeout});
    const JobEntry* job = Find(worker_.job);
    if (job != nullptr) next = std::min(next, job->started + (job->max_run - job->ran_before));
  }
  if (worker_.state == WorkerState::kIdle) next = std::min(next, worker_.idle_since + options_.idle_timeout);
  if (worker_.start_after > now) next = std::min(next, worker_.start_after);
  for (const auto& [name, job] : jobs_) {
    if (job.state == v1::QUEUED && job.not_before > now) next = std::min(next, job.not_before);
  }
  return next;
}

}  // namespace finetuned::queue
