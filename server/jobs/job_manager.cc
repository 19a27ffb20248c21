#include "server/jobs/job_manager.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/jobs/change.h"
#include "server/store/layout.h"

namespace finetuned::jobs {
namespace {

using queue::JobEvent;

std::string RandomHex(size_t bytes) {
  std::string raw(bytes, '\0');
  (void)!getrandom(raw.data(), raw.size(), 0);
  return absl::BytesToHexString(raw);
}

std::string NewUuid() {
  std::string h = RandomHex(16);
  h[12] = '4';
  h[16] = "89ab"[static_cast<unsigned char>(h[16]) & 3];
  return absl::StrCat(h.substr(0, 8), "-", h.substr(8, 4), "-", h.substr(12, 4), "-", h.substr(16, 4), "-",
                      h.substr(20));
}

}  // namespace

JobManager::JobManager(store::Store* store, Options options) : store_(store), options_(std::move(options)) {
  if (!options_.now_nanos) {
    options_.now_nanos = [] {
      return std::chrono::duration_cast<std::chrono::nanoseconds>(
                 std::chrono::system_clock::now().time_since_epoch())
          .count();
    };
  }
}

JobManager::~JobManager() = default;

absl::StatusOr<std::unique_ptr<JobManager>> JobManager::Load(store::Store* store, Options options) {
  std::unique_ptr<JobManager> manager(new JobManager(store, std::move(options)));
  auto jobs = store->LoadJobs();
  if (!jobs.ok()) return jobs.status();
  auto sequences = store->LastSequences();
  if (!sequences.ok()) return sequences.status();
  auto adapters = store->LoadAdapters();
  if (!adapters.ok()) return adapters.status();
  auto datasets = store->LoadDatasets();
  if (!datasets.ok()) return datasets.status();
  for (v1::Job& job : *jobs) {
    auto entry = std::make_unique<Entry>();
    entry->sequence = (*sequences)[job.uid()];
    entry->create_order = manager->next_order_++;
    for (const auto& attempt : job.attempts()) {
      entry->crashes += attempt.end_reason() == v1::WORKER_CRASHED || attempt.end_reason() == v1::WORKER_STALLED;
    }
    entry->job = std::move(job);
    manager->by_uid_[entry->job.uid()] = entry.get();
    manager->jobs_[entry->job.name()] = std::move(entry);
  }
  for (v1::Adapter& adapter : *adapters) manager->adapters_[adapter.name()] = std::move(adapter);
  for (v1::Dataset& dataset : *datasets) manager->datasets_[dataset.name()] = std::move(dataset);
  const absl::Status recovered = manager->Recover();
  if (!recovered.ok()) return recovered;
  return manager;
}

absl::Status JobManager::Recover() {
  const std::lock_guard lock(mutex_);
  for (auto& [name, entry] : jobs_) {
    if (!queue::IsActive(entry->job.state())) continue;
    Change change = Begin(*entry);
    EndAttempt(&change, v1::DAEMON_RESTARTED);
    absl::Status status = Move(&change, JobEvent::kLost, v1::DAEMON_RESTARTED,
                               "the daemon restarted; the job goes on from its last checkpoint");
    if (status.ok()) status = Commit(entry.get(), std::move(change));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void JobManager::SetSupervisor(std::function<void()> wake,
                               std::function<void(const std::string&, internal::JobSignal::Kind)> signal) {
  const std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
  signal_ = std::move(signal);
}

JobManager::Entry* JobManager::Find(const std::string& name) {
  const auto it = jobs_.find(name);
  return it == jobs_.end() ? nullptr : it->second.get();
}

const JobManager::Entry* JobManager::Find(const std::string& name) const {
  const auto it = jobs_.find(name);
  return it == jobs_.end() ? nullptr : it->second.get();
}

absl::StatusOr<JobManager::Entry*> JobManager::FindForChange(const std::string& name, const std::string& etag) {
  Entry* entry = Find(name);
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  if (!etag.empty() && etag != entry->job.etag()) {
    return absl::AbortedError(absl::StrCat(name, " has changed since it was read (etag ", entry->job.etag(), ")"));
  }
  return entry;
}

std::string JobManager::RunningJob() const {
  for (const auto& [name, entry] : jobs_) {
    if (queue::IsActive(entry->job.state())) return name;
  }
  return "";
}

std::vector<queue::JobView> JobManager::Views() const {
  std::vector<queue::JobView> views;
  views.reserve(jobs_.size());
  for (const auto& [name, entry] : jobs_) {
    const v1::Job& job = entry->job;
    queue::JobView view;
    view.name = name;
    view.state = job.state();
    if (job.state() == v1::QUEUED) {
      view.priority = job.scheduling().priority();
      view.was_started = job.attempt() > 0;
      view.create_order = entry->create_order;
      view.hold = job.scheduling().hold();
      view.not_before = job.scheduling().not_before().seconds();
      view.after.assign(job.scheduling().after().begin(), job.scheduling().after().end());
    }
    views.push_back(std::move(view));
  }
  return views;
}

v1::Job JobManager::Snapshot(const Entry& entry, const std::vector<queue::JobView>& views) const {
  v1::Job job = entry.job;
  if (job.state() != v1::QUEUED) return job;
  const queue::Why why = queue::Explain(job.name(), views, RunningJob(), Now() / 1'000'000'000);
  job.mutable_progress()->set_queue_position(why.position);
  // Why it came back to the queue is worth more than where it stands.
  if (job.attempt() == 0 || why.position != 1) {
    job.set_state_reason(why.reason);
    job.set_state_message(why.message);
  }
  return job;
}

absl::StatusOr<v1::Job> JobManager::Create(v1::Job job, const std::string& job_id, const Idempotency& id) {
  const std::lock_guard lock(mutex_);
  auto replayed = Replay(id);
  if (!replayed.ok()) return replayed.status();
  if (replayed->has_value()) return **replayed;
  const std::string name = absl::StrCat("jobs/", job_id.empty() ? "j-" + RandomHex(4) : job_id);
  if (Find(name) != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat(name, " exists already; choose another job_id"));
  }
  int queued = 0;
  for (const auto& [other, entry] : jobs_) queued += entry->job.state() == v1::QUEUED;
  if (queued >= options_.max_queued_jobs) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", queued, " jobs wait"));
  }
  auto entry = std::make_unique<Entry>();
  entry->create_order = next_order_++;
  entry->job = std::move(job);
  entry->job.set_name(name);
  entry->job.set_uid(NewUuid());
  entry->job.set_state(v1::VALIDATING);
  SetTime(Now(), entry->job.mutable_create_time());
  Change change = Begin(*entry);
  absl::Status status = Move(&change, JobEvent::kAdmitted, v1::WAITING_FOR_GPU, "accepted");
  if (status.ok()) status = Commit(entry.get(), std::move(change), id);
  if (!status.ok()) return status;
  Entry* kept = entry.get();
  by_uid_[kept->job.uid()] = kept;
  jobs_[name] = std::move(entry);
  if (observer_ != nullptr) observer_->OnCreated(kept->job);
  wake_();
  return Snapshot(*kept, Views());
}

absl::StatusOr<v1::Job> JobManager::Get(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const Entry* entry = Find(name);
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  return Snapshot(*entry, entry->job.state() == v1::QUEUED ? Views() : std::vector<queue::JobView>());
}

std::vector<v1::Job> JobManager::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<const Entry*> entries;
  for (const auto& [name, entry] : jobs_) entries.push_back(entry.get());
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->create_order < b->create_order; });
  const std::vector<queue::JobView> views = Views();
  std::vector<v1::Job> out;
  out.reserve(entries.size());
  for (const Entry* entry : entries) out.push_back(Snapshot(*entry, views));
  return out;
}

absl::StatusOr<v1::Job> JobManager::ChangeState(const std::string& name, const std::string& etag,
                                                const Idempotency& id, JobEvent event, const std::string& message) {
  const std::lock_guard lock(mutex_);
  auto replayed = Replay(id);
  if (!replayed.ok()) return replayed.status();
  if (replayed->has_value()) return **replayed;
  auto entry = FindForChange(name, etag);
  if (!entry.ok()) return entry.status();
  Change change = Begin(**entry);
  absl::Status status = Move(&change, event, v1::USER_REQUESTED, message);
  if (status.ok()) status = Commit(*entry, std::move(change), id);
  if (!status.ok()) return status;
  switch ((*entry)->job.state()) {
    case v1::CANCELLING: signal_(name, internal::JobSignal::CANCEL); break;
    case v1::PAUSING: signal_(name, internal::JobSignal::LEAVE); break;
    default: break;
  }
  wake_();
  return Snapshot(**entry, Views());
}

absl::StatusOr<v1::Job> JobManager::Cancel(const std::string& name, const std::string& etag,
                                           const std::string& reason, const Idempotency& id) {
  return ChangeState(name, etag, id, JobEvent::kCancel,
                     reason.empty() ? "cancelled on request" : absl::StrCat("cancelled on request: ", reason));
}

absl::StatusOr<v1::Job> JobManager::Pause(const std::string& name, const std::string& etag, const Idempotency& id) {
  return ChangeState(name, etag, id, JobEvent::kPause, "paused on request");
}

absl::StatusOr<v1::Job> JobManager::Resume(const std::string& name, const std::string& etag, const Idempotency& id) {
  return ChangeState(name, etag, id, JobEvent::kResume, "resumed on request");
}

absl::StatusOr<v1::Job> JobManager::Retry(const std::string& name, const Idempotency& id) {
  {
    const std::lock_guard lock(mutex_);
    if (Entry* entry = Find(name)) entry->crashes = 0;
  }
  return ChangeState(name, "", id, JobEvent::kRetry, "queued again on request");
}

absl::StatusOr<v1::Job> JobManager::SignalOnly(const std::string& name, const Idempotency& id,
                                               internal::JobSignal::Kind kind, const char* what) {
  const std::lock_guard lock(mutex_);
  auto replayed = Replay(id);
  if (!replayed.ok()) return replayed.status();
  if (replayed->has_value()) return **replayed;
  auto entry = FindForChange(name, "");
  if (!entry.ok()) return entry.status();
  const v1::JobState state = (*entry)->job.state();
  if (state != v1::RUNNING && state != v1::PREPARING) {
    return absl::FailedPreconditionError(absl::StrCat("the job is ", v1::JobState_Name(state), "; ", what,
                                                      " needs PREPARING or RUNNING"));
  }
  const absl::Status status = Commit(*entry, Begin(**entry), id);
  if (!status.ok()) return status;
  signal_(name, kind);
  return (*entry)->job;
}

absl::StatusOr<v1::Job> JobManager::Stop(const std::string& name, const Idempotency& id) {
  return SignalOnly(name, id, internal::JobSignal::FINISH, "stop");
}

absl::StatusOr<v1::Job> JobManager::Checkpoint(const std::string& name, const Idempotency& id) {
  return SignalOnly(name, id, internal::JobSignal::CHECKPOINT, "checkpoint");
}

absl::StatusOr<v1::Job> JobManager::Update(const std::string& name, const std::string& etag,
                                           const std::function<absl::Status(v1::Job*)>& edit,
                                           const Idempotency& id) {
  const std::lock_guard lock(mutex_);
  auto replayed = Replay(id);
  if (!replayed.ok()) return replayed.status();
  if (replayed->has_value()) return **replayed;
  auto entry = FindForChange(name, etag);
  if (!entry.ok()) return entry.status();
  Change change = Begin(**entry);
  absl::Status status = edit(&change.job);
  if (!status.ok()) return status;
  Touch(Now(), &change.job);
  status = Commit(*entry, std::move(change), id);
  if (!status.ok()) return status;
  wake_();
  return Snapshot(**entry, Views());
}

absl::Status JobManager::Delete(const std::string& name, const std::string& etag, bool force,
                                const Idempotency& id) {
  const std::lock_guard lock(mutex_);
  auto replayed = Replay(id);
  if (!replayed.ok()) return replayed.status();
  if (replayed->has_value()) return absl::OkStatus();
  auto entry = FindForChange(name, etag);
  if (!entry.ok()) return entry.status();
  const v1::Job job = (*entry)->job;
  if (!queue::IsTerminal(job.state()) && job.state() != v1::PAUSED) {
    return absl::FailedPreconditionError(absl::StrCat(name, " is ", v1::JobState_Name(job.state()),
                                                      "; cancel it first"));
  }
  const bool has_adapter = adapters_.count(job.output_adapter()) > 0;
  if (has_adapter && !force) {
    return absl::FailedPreconditionError(absl::StrCat(name, " made ", job.output_adapter(),
                                                      "; delete that first, or use force"));
  }
  store::Transaction t;
  t.delete_jobs.push_back(job.uid());
  if (has_adapter) t.delete_adapters.push_back(job.output_adapter());
  if (!id.key.empty()) t.requests.push_back({id.key, id.digest, job.SerializeAsString()});
  const absl::Status status = store_->Apply(t);
  if (!status.ok()) return status;
  if (observer_ != nullptr) observer_->OnDeleted(job);
  adapters_.erase(job.output_adapter());
  by_uid_.erase(job.uid());
  jobs_.erase(name);
  std::error_code ignored;  // files without a row are found and removed at the next start
  std::filesystem::remove_all(store::JobDir(options_.state_dir, job.uid()), ignored);
  return absl::OkStatus();
}

void JobManager::SetDraining(bool pause_running) {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  pause_on_leave_ = pause_running;
}

bool JobManager::HasStartable() const {
  const std::lock_guard lock(mutex_);
  return !draining_ && queue::PickNext(Views(), Now() / 1'000'000'000).has_value();
}

int64_t JobManager::NextStartTime() const {
  const std::lock_guard lock(mutex_);
  int64_t next = 0;
  const int64_t now = Now() / 1'000'000'000;
  for (const auto& [name, entry] : jobs_) {
    const int64_t at = entry->job.scheduling().not_before().seconds();
    if (entry->job.state() == v1::QUEUED && at > now && (next == 0 || at < next)) next = at;
  }
  return next;
}

}  // namespace finetuned::jobs
