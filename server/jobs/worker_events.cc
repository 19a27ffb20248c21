// What the worker reports, applied to jobs.

#include <cmath>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/format/sha256.h"
#include "google/rpc/code.pb.h"
#include "server/jobs/change.h"
#include "server/jobs/job_manager.h"
#include "server/store/layout.h"

namespace finetuned::jobs {
namespace {

using internal::WorkerEvent;
using queue::JobEvent;

void FillStats(const google::protobuf::Map<std::string, double>& from, v1::DatasetStats* to) {
  const auto value = [&](const char* key) {
    const auto it = from.find(key);
    return it == from.end() ? int64_t{0} : static_cast<int64_t>(it->second);
  };
  to->set_rows(value("rows"));
  to->set_tokens(value("tokens"));
  to->set_trained_tokens(value("trained_tokens"));
  to->set_max_tokens(value("max_tokens"));
  to->set_p50_tokens(value("p50_tokens"));
  to->set_p95_tokens(value("p95_tokens"));
  to->set_truncated_rows(value("truncated_rows"));
  to->set_dropped_rows(value("dropped_rows"));
  to->set_duplicate_rows(value("duplicate_rows"));
}

void ApplyStep(const internal::WorkerStep& step, v1::Job* job, const google::protobuf::Timestamp& time) {
  v1::Progress* p = job->mutable_progress();
  double seconds = 0;
  p->set_step(step.step());
  p->set_epoch(step.epoch());
  for (const auto& [key, value] : step.values()) {
    (*p->mutable_latest_metrics())[key] = value;
    if (key == "step_time") seconds = value;
    if (key == "num_tokens") p->set_tokens(static_cast<int64_t>(value));
  }
  *p->mutable_last_step_time() = time;
  const double left = seconds * static_cast<double>(std::max<int64_t>(0, p->total_steps() - p->step()));
  p->mutable_remaining()->set_seconds(std::isfinite(left) ? std::llround(left) : 0);
  const double elapsed = static_cast<double>(p->elapsed().seconds()) + p->elapsed().nanos() * 1e-9 + seconds;
  p->mutable_elapsed()->set_seconds(static_cast<int64_t>(elapsed));
  p->mutable_elapsed()->set_nanos(static_cast<int32_t>((elapsed - std::floor(elapsed)) * 1e9));
}

// Which state reason and gRPC code a failed run gets.
v1::StateReason FailureReason(const internal::WorkerFinished& f) {
  v1::StateReason reason = v1::INTERNAL_ERROR;
  if (v1::StateReason_Parse(f.reason(), &reason)) return reason;
  if (f.outcome() == 65) return v1::INVALID_DATASET;
  if (f.outcome() == 78) return v1::INVALID_CONFIGURATION;
  return v1::INTERNAL_ERROR;
}

int CodeFor(v1::StateReason reason) {
  switch (reason) {
    case v1::INVALID_DATASET:
    case v1::INVALID_CONFIGURATION: return google::rpc::INVALID_ARGUMENT;
    case v1::OUT_OF_DEVICE_MEMORY:
    case v1::OUT_OF_HOST_MEMORY:
    case v1::DISK_FULL: return google::rpc::RESOURCE_EXHAUSTED;
    case v1::DEPENDENCY_FAILED: return google::rpc::FAILED_PRECONDITION;
    case v1::MAX_RUN_DURATION_EXCEEDED: return google::rpc::DEADLINE_EXCEEDED;
    default: return google::rpc::INTERNAL;
  }
}

}  // namespace

absl::StatusOr<std::optional<v1::Job>> JobManager::StartNext() {
  const std::lock_guard lock(mutex_);
  for (const queue::Doomed& doomed : queue::FindDoomed(Views())) {
    Entry* entry = Find(doomed.name);
    Change change = Begin(*entry);
    absl::Status status = Fail(&change, v1::DEPENDENCY_FAILED, doomed.message);
    if (status.ok()) status = Commit(entry, std::move(change));
    if (!status.ok()) return status;
  }
  if (draining_) return std::nullopt;
  const std::optional<std::string> next = queue::PickNext(Views(), Now() / 1'000'000'000);
  if (!next.has_value()) return std::nullopt;
  Entry* entry = Find(*next);
  Change change = Begin(*entry);
  change.job.set_attempt(change.job.attempt() + 1);
  v1::Attempt* attempt = change.job.add_attempts();
  attempt->set_number(change.job.attempt());
  SetTime(Now(), attempt->mutable_start_time());
  attempt->set_start_step(change.job.progress().step());
  attempt->set_daemon_version(options_.version);
  if (!change.job.has_start_time()) *change.job.mutable_start_time() = attempt->start_time();
  change.job.mutable_progress()->set_phase("");
  absl::Status status = Move(&change, JobEvent::kDispatched, v1::STATE_REASON_UNSPECIFIED, "the worker has it");
  if (status.ok()) status = Commit(entry, std::move(change));
  if (!status.ok()) return status;
  return entry->job;
}

void JobManager::ApplyToChange(Change* change, const WorkerEvent& event) const {
  v1::Job& job = change->job;
  v1::Event out;
  SetTime(event.time_unix_nanos(), out.mutable_time());
  switch (event.event_case()) {
    case WorkerEvent::kPhase: {
      job.mutable_progress()->set_phase(event.phase());
      // Errors are moves that came too late: a job told to pause or cancel keeps that state.
      if (event.phase() == "training") {
        (void)Move(change, JobEvent::kStepping, v1::STATE_REASON_UNSPECIFIED, "training");
      } else if (event.phase() == "exporting") {
        (void)Move(change, JobEvent::kExporting, v1::STATE_REASON_UNSPECIFIED,
                                                  "writing the adapter");
      } else {
        out.mutable_log()->set_level(1);
        out.mutable_log()->set_text(event.phase());
        AddEvent(change, std::move(out));
      }
      return;
    }
    case WorkerEvent::kPlan:
      job.mutable_progress()->set_total_steps(event.plan().total_steps());
      job.mutable_progress()->set_step(event.plan().first_step());
      FillStats(event.plan().dataset_stats(), job.mutable_dataset_stats());
      out.mutable_planned()->set_first_step(event.plan().first_step());
      out.mutable_planned()->set_total_steps(event.plan().total_steps());
      *out.mutable_planned()->mutable_dataset_stats() = event.plan().dataset_stats();
      break;
    case WorkerEvent::kStep:
      ApplyStep(event.step(), &job, out.time());
      out.mutable_metrics()->set_step(event.step().step());
      out.mutable_metrics()->set_epoch(event.step().epoch());
      *out.mutable_metrics()->mutable_values() = event.step().values();
      break;
    case WorkerEvent::kEval:
      for (const auto& [key, value] : event.eval().values()) {
        (*job.mutable_progress()->mutable_latest_metrics())[key] = value;
      }
      out.mutable_eval()->set_step(event.eval().step());
      *out.mutable_eval()->mutable_values() = event.eval().values();
      break;
    case WorkerEvent::kCheckpoint: {
      v1::Checkpoint c;
      c.set_name(absl::StrCat(job.name(), "/checkpoints/", event.checkpoint().step()));
      c.set_step(event.checkpoint().step());
      c.set_epoch(job.progress().epoch());
      c.set_size_bytes(event.checkpoint().bytes());
      c.set_resumable(true);
      *c.mutable_create_time() = out.time();
      out.mutable_checkpoint()->set_checkpoint(c.name());
      out.mutable_checkpoint()->set_step(c.step());
      out.mutable_checkpoint()->set_size_bytes(c.size_bytes());
      change->checkpoints.push_back(std::move(c));
      break;
    }
    case WorkerEvent::kWarning:
      out.mutable_warning()->set_code(event.warning().code());
      out.mutable_warning()->set_text(event.warning().text());
      break;
    case WorkerEvent::kLog:
      out.mutable_log()->set_level(1);
      out.mutable_log()->set_text(event.log());
      break;
    default:
      return;
  }
  AddEvent(change, std::move(out));
}

absl::Status JobManager::ApplyWorkerEvents(const std::vector<WorkerEvent>& events) {
  const std::lock_guard lock(mutex_);
  size_t i = 0;
  while (i < events.size()) {
    Entry* entry = Find(events[i].job());
    size_t end = i;
    while (end < events.size() && events[end].job() == events[i].job()) ++end;
    // Events of an attempt that has been given up are late: they describe work that will be done again.
    if (entry != nullptr && queue::IsActive(entry->job.state())) {
      Change change = Begin(*entry);
      for (size_t k = i; k < end; ++k) {
        if (events[k].attempt() == entry->job.attempt()) ApplyToChange(&change, events[k]);
      }
      const absl::Status status = Commit(entry, std::move(change));
      if (!status.ok()) return status;
      for (size_t k = i; k < end && observer_ != nullptr; ++k) observer_->OnWorkerEvent(entry->job, events[k]);
    }
    i = end;
  }
  return absl::OkStatus();
}

void JobManager::EndAttempt(Change* change, v1::StateReason reason) const {
  v1::Job& job = change->job;
  if (job.attempts_size() == 0) return;
  v1::Attempt* attempt = job.mutable_attempts(job.attempts_size() - 1);
  SetTime(Now(), attempt->mutable_end_time());
  attempt->set_end_step(job.progress().step());
  attempt->set_end_reason(reason);
}

absl::Status JobManager::Fail(Change* change, v1::StateReason reason, const std::string& message) {
  const absl::Status status = Move(change, JobEvent::kFailed, reason, message);
  if (status.ok() && change->job.state() == v1::FAILED) {
    change->job.mutable_error()->set_code(CodeFor(reason));
    change->job.mutable_error()->set_message(message);
  }
  return status;
}

absl::StatusOr<v1::Adapter> JobManager::DescribeAdapter(const v1::Job& job,
                                                        const internal::WorkerFinished& finished) const {
  v1::Adapter adapter;
  adapter.set_name(absl::StrCat("adapters/", absl::StripPrefix(job.name(), "jobs/")));
  adapter.set_base_model(job.spec().base_model());
  adapter.set_source_job(job.name());
  *adapter.mutable_labels() = job.labels();
  *adapter.mutable_metrics() = finished.final_metrics();
  SetTime(Now(), adapter.mutable_create_time());
  const std::filesystem::path dir = store::AdapterDir(options_.state_dir, job.uid());
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(dir, error)) {
    if (!file.is_regular_file(error)) continue;
    const auto sha256 = format::Sha256File(file.path().string());
    if (!sha256.ok()) return sha256.status();
    v1::AdapterFile* out = adapter.add_files();
    out->set_file(file.path().filename().string());
    out->set_size_bytes(static_cast<int64_t>(file.file_size(error)));
    out->set_sha256(*sha256);
    adapter.set_size_bytes(adapter.size_bytes() + out->size_bytes());
    if (out->file() == "adapter_model.safetensors") adapter.set_sha256(*sha256);
  }
  if (error || adapter.sha256().empty()) {
    return absl::InternalError("the worker ended without an adapter");
  }
  return adapter;
}

absl::Status JobManager::Finished(const internal::WorkerFinished& f) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(f.job());
  if (entry == nullptr || !queue::IsActive(entry->job.state()) || entry->job.attempt() != f.attempt()) {
    return absl::OkStatus();
  }
  Change change = Begin(*entry);
  change.job.mutable_progress()->clear_remaining();
  absl::Status status;
  if (f.outcome() == 0) {
    absl::StatusOr<v1::Adapter> adapter = DescribeAdapter(change.job, f);
    if (adapter.ok()) {
      EndAttempt(&change, v1::STATE_REASON_UNSPECIFIED);
      change.job.set_output_adapter(adapter->name());
      status = Move(&change, JobEvent::kSucceeded, v1::STATE_REASON_UNSPECIFIED, "the adapter is ready");
      if (change.job.state() == v1::SUCCEEDED) {
        change.adapters.push_back(*std::move(adapter));
      } else {
        change.job.clear_output_adapter();
      }
    } else {
      EndAttempt(&change, v1::INTERNAL_ERROR);
      status = Fail(&change, v1::INTERNAL_ERROR, std::string(adapter.status().message()));
    }
  } else if (f.outcome() == 75) {
    const v1::StateReason reason = draining_ ? v1::DAEMON_DRAINING : v1::USER_REQUESTED;
    EndAttempt(&change, reason);
    if (draining_ && pause_on_leave_ && change.job.state() == v1::RUNNING) {
      status = Move(&change, JobEvent::kPause, reason, "the daemon is draining");
    }
    if (status.ok()) {
      status = Move(&change, JobEvent::kLeft, reason,
                    absl::StrCat("checkpoint at step ", f.last_step(), " written", draining_ ? "; the daemon is draining" : ""));
    }
  } else if (f.outcome() == 79 && change.job.state() == v1::CANCELLING) {
    EndAttempt(&change, v1::USER_REQUESTED);
    status = Move(&change, JobEvent::kCancelled, v1::USER_REQUESTED, change.job.state_message());
  } else {
    const v1::StateReason reason = FailureReason(f);
    EndAttempt(&change, reason);
    status = Fail(&change, reason, f.message());
  }
  if (status.ok()) status = Commit(entry, std::move(change));
  wake_();
  return status;
}

absl::Status JobManager::Lost(const std::string& job, v1::StateReason reason, const std::string& message,
                              bool counts) {
  const std::lock_guard lock(mutex_);
  Entry* entry = Find(job);
  if (entry == nullptr || !queue::IsActive(entry->job.state())) return absl::OkStatus();
  Change change = Begin(*entry);
  EndAttempt(&change, reason);
  change.crashed = counts;
  absl::Status status;
  if (counts && entry->crashes + 1 >= options_.max_crashes && change.job.state() != v1::CANCELLING) {
    status = Fail(&change, reason, absl::StrCat(message, "; that was crash ", entry->crashes + 1, " of this job"));
  } else {
    status = Move(&change, JobEvent::kLost, reason,
                  absl::StrCat(message, "; the job goes on from its last checkpoint"));
  }
  if (status.ok()) status = Commit(entry, std::move(change));
  wake_();
  return status;
}

}  // namespace finetuned::jobs
