// What callers on other threads see of the queue: published by the scheduler's thread, read under a lock.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/jobs/loop.h"
#include "server/jobs/record.h"

namespace finetuned::jobs {

// Each job starts when those ahead of it are through, as far as their time is known; jobs on hold or behind another
// job have no estimate.
std::map<std::string, absl::Time> JobManager::Loop::EstimateStarts(const std::map<std::string, queue::Wait>& waits,
                                                                   absl::Time now) const {
  std::vector<const std::string*> in_order(waits.size());
  for (const auto& [name, wait] : waits) in_order[wait.position - 1] = &name;
  const auto remaining = [this](const std::string& name) -> std::optional<absl::Duration> {
    const auto found = live_.find(name);
    if (found == live_.end() || !found->second.job.progress().has_remaining()) return std::nullopt;
    return ToDuration(found->second.job.progress().remaining());
  };
  std::map<std::string, absl::Time> starts;
  absl::Time free_at = now;
  std::optional<absl::Duration> takes =
      scheduler_.holder().empty() ? absl::ZeroDuration() : remaining(scheduler_.holder());
  for (const std::string* next : in_order) {
    const std::string& name = *next;
    const v1::StateReason reason = waits.at(name).reason;
    if (reason != v1::WAITING_FOR_GPU && reason != v1::WAITING_FOR_START_TIME) continue;
    if (!takes) break;  // of one ahead: nothing is known of those behind
    free_at += *takes;
    starts[name] = std::max(free_at, scheduler_.Find(name)->not_before);
    takes = remaining(name);
  }
  return starts;
}

void JobManager::Loop::PublishView() {
  const absl::Time now = absl::Now();
  View view;
  view.waits = scheduler_.Waits(now);
  view.accepting = !scheduler_.draining();
  view.worker.state = scheduler_.worker();
  view.worker.job = scheduler_.holder();
  view.worker.hello = hello_;
  view.worker.problem = problem_;
  view.worker.context_bytes = context_bytes_;
  view.starts = EstimateStarts(view.waits, now);
  metrics_->Ready(view.accepting);
  metrics_->OldestQueued(OldestQueued(view.waits));
  std::lock_guard lock(view_mutex_);
  std::swap(view_, view);  // the old one ends after the lock
}

absl::Time JobManager::Loop::OldestQueued(const std::map<std::string, queue::Wait>& waits) const {
  if (waits.empty()) return absl::InfinitePast();
  absl::Time oldest = absl::InfiniteFuture();
  // Both by name: one walk. queued_since_ also has jobs that run.
  auto wait = waits.begin();
  for (const auto& [name, since] : queued_since_) {
    while (wait != waits.end() && wait->first < name) ++wait;
    if (wait == waits.end()) break;
    if (wait->first == name) oldest = std::min(oldest, since);
  }
  return oldest;
}

void JobManager::Loop::Overlay(v1::Job* job) const {
  if (job->state() != v1::QUEUED) return;
  std::lock_guard lock(view_mutex_);
  const auto found = view_.waits.find(job->name());
  if (found == view_.waits.end()) return;
  const queue::Wait& wait = found->second;
  job->mutable_progress()->set_queue_position(wait.position);
  if (const auto start = view_.starts.find(job->name()); start != view_.starts.end()) {
    *job->mutable_progress()->mutable_estimated_start_time() = ToProto(start->second);
  }
  // A job that came back to the queue goes on telling why; any other tells what it waits for.
  const std::string cause = AttemptCause(*job);
  const bool came_back = cause == "worker_crash" || cause == "daemon_restart" || cause == "preemption";
  if (came_back && wait.reason == v1::WAITING_FOR_GPU) {
    job->set_state_message(absl::StrCat(job->state_message(), ". ", wait.why));
  } else {
    job->set_state_reason(wait.reason);
    job->set_state_message(wait.why);
  }
}

WorkerStatus JobManager::Loop::Worker() const {
  std::lock_guard lock(view_mutex_);
  return view_.worker;
}

bool JobManager::Loop::accepting() const {
  std::lock_guard lock(view_mutex_);
  return view_.accepting;
}

}  // namespace finetuned::jobs
