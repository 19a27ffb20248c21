// Order of the queue and its explanation; part of Scheduler.
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

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

namespace {

// Where a queued job stands: those that could run first, by priority, then re-queued ones, then by the time of queueing.
struct Place {
  bool blocked;
  const JobEntry* job;

  friend bool operator<(const Place& a, const Place& b) {
    const auto key = [](const Place& p) { return std::tuple(p.blocked, -p.job->priority, !p.job->front, p.job->order); };
    const auto left = key(a), right = key(b);
    return left != right ? left < right : a.job->name < b.job->name;
  }
};

}  // namespace

v1::StateReason Scheduler::Blocked(const JobEntry& job, absl::Time now) {
  if (job.hold) return v1::HELD;
  if (!job.after.empty()) return v1::WAITING_FOR_DEPENDENCY;
  if (now < job.not_before) return v1::WAITING_FOR_START_TIME;
  return v1::WAITING_FOR_GPU;
}

const JobEntry* Scheduler::First(absl::Time now) const {
  std::optional<Place> first;
  for (const auto& [name, job] : jobs_) {
    if (job.state != v1::QUEUED || Blocked(job, now) != v1::WAITING_FOR_GPU) continue;
    const Place place{false, &job};
    if (!first || place < *first) first = place;
  }
  return first ? first->job : nullptr;
}

// One sentence. `before`: the job ahead, or the one that has the device.
std::string Scheduler::Why(const JobEntry& job, const Wait& wait, const std::string& before, absl::Time now) const {
  switch (wait.reason) {
    case v1::DAEMON_DRAINING: return "The daemon is leaving; the job runs when it is started again.";
    case v1::HELD: return "It is on hold until it is released (scheduling.hold).";
    case v1::WAITING_FOR_DEPENDENCY:
      return absl::StrCat("It waits for ", absl::StrJoin(job.after, ", "), " to succeed.");
    case v1::WAITING_FOR_START_TIME:
      return absl::StrCat("It starts no earlier than ",
                          absl::FormatTime("%Y-%m-%d %H:%M:%SZ", job.not_before, absl::UTCTimeZone()), ".");
    default: break;
  }
  if (wait.position > 1) return absl::StrCat("Number ", wait.position, " in the queue, behind ", before, ".");
  const JobEntry* holder = Find(worker_.job);
  if (holder != nullptr && holder->state == v1::PAUSING) {
    return absl::StrCat("It is next; ", before, " writes a checkpoint and gives up the device.");
  }
  if (!before.empty()) return absl::StrCat("It is next; ", before, " has the device.");
  if (now < worker_.start_after) return "It is next; the worker ended and is started again in a moment.";
  return "It is next; the worker is being started.";
}

std::map<std::string, Wait> Scheduler::Waits(absl::Time now) const {
  std::map<std::string, Wait> waits;
  std::vector<std::pair<Place, Wait*>> order;
  // jobs_ has the order of the answer: each is put at its end, without a search.
  for (const auto& [name, job] : jobs_) {
    if (job.state != v1::QUEUED) continue;
    const v1::StateReason reason = Blocked(job, now);
    Wait& wait = waits.emplace_hint(waits.end(), name, Wait())->second;
    wait.reason = draining_ ? v1::DAEMON_DRAINING : reason;
    order.push_back({{reason != v1::WAITING_FOR_GPU, &job}, &wait});
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  int position = 0;
  const std::string* before = &worker_.job;
  for (const auto& [place, wait] : order) {
    wait->position = ++position;
    wait->why = Why(*place.job, *wait, *before, now);
    before = &place.job->name;
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
