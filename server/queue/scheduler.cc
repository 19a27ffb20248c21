#include "server/queue/scheduler.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace finetuned::queue {
namespace {

using ByName = std::unordered_map<std::string, const JobView*>;

ByName Index(const std::vector<JobView>& jobs) {
  ByName index;
  for (const JobView& job : jobs) index[job.name] = &job;
  return index;
}

bool Before(const JobView* a, const JobView* b) {
  if (a->priority != b->priority) return a->priority > b->priority;
  if (a->was_started != b->was_started) return a->was_started;
  return a->create_order < b->create_order;
}

// The first dependency that has not succeeded.
const std::string* OpenDependency(const JobView& job, const ByName& index) {
  for (const std::string& name : job.after) {
    const auto it = index.find(name);
    if (it == index.end() || it->second->state != v1::SUCCEEDED) return &name;
  }
  return nullptr;
}

bool MayStart(const JobView& job, const ByName& index, int64_t now) {
  return job.state == v1::QUEUED && !job.hold && job.not_before <= now &&
         OpenDependency(job, index) == nullptr;
}

std::vector<const JobView*> Startable(const std::vector<JobView>& jobs, const ByName& index, int64_t now) {
  std::vector<const JobView*> out;
  for (const JobView& job : jobs) {
    if (MayStart(job, index, now)) out.push_back(&job);
  }
  std::sort(out.begin(), out.end(), Before);
  return out;
}

}  // namespace

std::optional<std::string> PickNext(const std::vector<JobView>& jobs, int64_t now) {
  const auto startable = Startable(jobs, Index(jobs), now);
  if (startable.empty()) return std::nullopt;
  return startable.front()->name;
}

std::vector<Doomed> FindDoomed(const std::vector<JobView>& jobs) {
  const ByName index = Index(jobs);
  std::vector<Doomed> out;
  for (const JobView& job : jobs) {
    if (job.state != v1::QUEUED) continue;
    for (const std::string& name : job.after) {
      const auto it = index.find(name);
      if (it == index.end()) {
        out.push_back({job.name, absl::StrCat("it was to run after ", name, ", which was deleted")});
      } else if (it->second->state == v1::FAILED || it->second->state == v1::CANCELLED) {
        out.push_back({job.name, absl::StrCat("it was to run after ", name, ", which ended ",
                                              v1::JobState_Name(it->second->state))});
      } else {
        continue;
      }
      break;
    }
  }
  return out;
}

Why Explain(const std::string& name, const std::vector<JobView>& jobs, const std::string& running,
            int64_t now) {
  const ByName index = Index(jobs);
  const JobView& job = *index.at(name);
  if (job.hold) return {v1::HELD, "held; clear scheduling.hold to let it run", 0};
  if (job.not_before > now) {
    return {v1::WAITING_FOR_START_TIME,
            absl::StrCat("waits until ", absl::FormatTime(absl::RFC3339_sec, absl::FromUnixSeconds(job.not_before),
                                                          absl::UTCTimeZone())),
            0};
  }
  if (const std::string* open = OpenDependency(job, index)) {
    return {v1::WAITING_FOR_DEPENDENCY, absl::StrCat("waits for ", *open, " to succeed"), 0};
  }
  const auto startable = Startable(jobs, index, now);
  const auto it = std::find(startable.begin(), startable.end(), &job);
  const int32_t position = static_cast<int32_t>(it - startable.begin()) + 1;
  if (position > 1) {
    return {v1::WAITING_FOR_GPU,
            absl::StrCat(position - 1, position == 2 ? " job is" : " jobs are", " ahead in the queue"), position};
  }
  if (!running.empty()) return {v1::WAITING_FOR_GPU, absl::StrCat("next; ", running, " has the device"), 1};
  return {v1::WAITING_FOR_GPU, "next; the worker is being started", 1};
}

}  // namespace finetuned::queue
