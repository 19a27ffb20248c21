// The event log and the changes that go with it.

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/jobs/change.h"
#include "server/jobs/job_manager.h"

namespace finetuned::jobs {
namespace {

constexpr size_t kRecentEvents = 1024;

}  // namespace

JobManager::Change JobManager::Begin(const Entry& entry) const {
  return {entry.job, entry.job.state(), entry.sequence, {}, {}, {}, false};
}

void JobManager::AddEvent(Change* change, v1::Event event) const {
  event.set_sequence(++change->sequence);
  event.set_name(absl::StrCat(change->job.name(), "/events/", event.sequence()));
  event.set_attempt(change->job.attempt());
  if (!event.has_time()) SetTime(Now(), event.mutable_time());
  change->events.push_back(std::make_shared<v1::Event>(std::move(event)));
}

absl::Status JobManager::Move(Change* change, queue::JobEvent event, v1::StateReason reason,
                              const std::string& message) const {
  v1::Job& job = change->job;
  const absl::StatusOr<v1::JobState> to = queue::Next(job.state(), event);
  if (!to.ok()) return to.status();
  v1::Event e;
  e.mutable_state_changed()->set_from(job.state());
  e.mutable_state_changed()->set_to(*to);
  e.mutable_state_changed()->set_reason(reason);
  e.mutable_state_changed()->set_message(message);
  AddEvent(change, std::move(e));
  job.set_state(*to);
  job.set_state_reason(reason);
  job.set_state_message(message);
  if (queue::IsTerminal(*to)) {
    SetTime(Now(), job.mutable_end_time());
  } else {
    job.clear_end_time();
    job.clear_error();
  }
  Touch(Now(), &job);
  return absl::OkStatus();
}

absl::Status JobManager::Commit(Entry* entry, Change change, const Idempotency& id) {
  store::Transaction t;
  t.put_jobs.push_back(&change.job);
  for (const auto& event : change.events) t.events.push_back({change.job.uid(), event.get()});
  for (const auto& checkpoint : change.checkpoints) t.put_checkpoints.emplace_back(change.job.uid(), checkpoint);
  for (const auto& adapter : change.adapters) t.put_adapters.push_back(&adapter);
  if (!id.key.empty()) t.requests.push_back({id.key, id.digest, change.job.SerializeAsString()});
  const absl::Status status = store_->Apply(t);
  if (!status.ok()) return status;

  entry->job = std::move(change.job);
  entry->sequence = change.sequence;
  entry->crashes += change.crashed;
  for (auto& event : change.events) entry->recent.push_back(std::move(event));
  while (entry->recent.size() > kRecentEvents) entry->recent.pop_front();
  for (auto& adapter : change.adapters) adapters_[adapter.name()] = std::move(adapter);
  if (observer_ != nullptr && change.from != entry->job.state()) {
    observer_->OnStateChanged(entry->job, change.from);
  }
  for (const auto& [token, wake] : entry->subscribers) wake();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<v1::Job>> JobManager::Replay(const Idempotency& id) {
  if (id.key.empty()) return std::nullopt;
  const auto found = store_->FindRequest(id.key);
  if (!found.ok()) return found.status();
  if (!found->has_value()) return std::nullopt;
  if ((*found)->digest != id.digest) {
    return absl::InvalidArgumentError("request_id was used before for another request; use a new UUID");
  }
  v1::Job job;
  if (!job.ParseFromString((*found)->response)) return absl::DataLossError("the stored answer cannot be read");
  return job;
}

absl::StatusOr<std::vector<std::shared_ptr<const v1::Event>>> JobManager::ReadEvents(const std::string& uid,
                                                                                    int64_t after, int limit) {
  std::vector<std::shared_ptr<const v1::Event>> out;
  {
    const std::lock_guard lock(mutex_);
    const auto it = by_uid_.find(uid);
    if (it == by_uid_.end()) return absl::NotFoundError("the job was deleted");
    const auto& recent = it->second->recent;
    if (after >= it->second->sequence) return out;
    if (!recent.empty() && recent.front()->sequence() <= after + 1) {
      const size_t skip = static_cast<size_t>(after + 1 - recent.front()->sequence());
      for (size_t i = skip; i < recent.size() && static_cast<int>(out.size()) < limit; ++i) out.push_back(recent[i]);
      return out;
    }
  }
  auto stored = store_->ReadEvents(uid, after, limit);
  if (!stored.ok()) return stored.status();
  for (v1::Event& event : *stored) out.push_back(std::make_shared<const v1::Event>(std::move(event)));
  return out;
}

int64_t JobManager::LastSequence(const std::string& uid) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_uid_.find(uid);
  return it == by_uid_.end() ? 0 : it->second->sequence;
}

int64_t JobManager::Subscribe(const std::string& uid, std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  const auto it = by_uid_.find(uid);
  if (it == by_uid_.end()) return 0;
  it->second->subscribers[next_subscriber_] = std::move(wake);
  return next_subscriber_++;
}

void JobManager::Unsubscribe(const std::string& uid, int64_t id) {
  const std::lock_guard lock(mutex_);
  const auto it = by_uid_.find(uid);
  if (it != by_uid_.end()) it->second->subscribers.erase(id);
}

}  // namespace finetuned::jobs
