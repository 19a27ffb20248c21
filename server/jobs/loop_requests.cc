// Requests of the API, on the scheduler's thread.
#include <sys/random.h>

#include <algorithm>
#include <filesystem>

#include <google/protobuf/util/field_mask_util.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/job/failpoint.h"
#include "proto/spec/tools.h"
#include "server/config/log.h"
#include "server/jobs/errors.h"
#include "server/jobs/loop.h"
#include "server/jobs/record.h"

namespace finetuned::jobs {
namespace {

// A random UUID, version 4.
std::string NewUuid() {
  unsigned char b[16];
  if (getrandom(b, sizeof b, 0) != sizeof b) std::abort();  // 16 bytes are never cut short
  b[6] = static_cast<unsigned char>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3f) | 0x80);
  return absl::StrFormat("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
                         b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
                         b[15]);
}

queue::Reschedule ToReschedule(const store::JobRecord& record) {
  const queue::JobEntry entry = ToEntry(record);
  return {entry.name, entry.priority, entry.hold, entry.not_before, entry.after, entry.max_run,
          entry.max_crashes, entry.preemptible};
}

bool TouchesScheduling(const google::protobuf::FieldMask& mask) {
  return std::any_of(mask.paths().begin(), mask.paths().end(), [](const std::string& path) {
    return path == "scheduling" || absl::StartsWith(path, "scheduling.");
  });
}

}  // namespace

absl::StatusOr<std::optional<v1::Job>> JobManager::Loop::Remembered(const char* method,
                                                                    const Caller& caller) const {
  if (caller.request_id.empty()) return std::optional<v1::Job>();
  const auto found = store_->FindRequest(caller.principal, caller.request_id, method, caller.fingerprint);
  if (absl::IsNotFound(found.status())) return std::optional<v1::Job>();
  if (!found.ok()) return found.status();
  v1::Job job;
  if (!job.ParseFromString(found->response)) return absl::DataLossError("a remembered answer is damaged");
  return std::optional<v1::Job>(std::move(job));
}

absl::StatusOr<store::JobRecord> JobManager::Loop::Record(const std::string& name) const {
  const auto found = live_.find(name);
  if (found != live_.end()) return found->second;
  auto stored = store_->GetJob(name);
  if (absl::IsNotFound(stored.status())) return NotFound("job", name);
  return stored;
}

absl::Status JobManager::Loop::CheckEtag(const v1::Job& job, const std::string& etag) const {
  if (etag.empty() || etag == job.etag()) return absl::OkStatus();
  return EtagMismatch(job.name(), etag, job.etag());
}

absl::Status JobManager::Loop::CheckDependencies(const v1::Job& job) const {
  for (const std::string& name : job.scheduling().after()) {
    if (name == job.name()) return absl::InvalidArgumentError("scheduling.after: a job cannot wait for itself");
    const auto found = Record(name);
    if (absl::IsNotFound(found.status())) {
      return absl::InvalidArgumentError(absl::StrCat("scheduling.after: ", name, " does not exist"));
    }
    if (!found.ok()) return found.status();
    // The queue asks for nothing that waits, directly or not, for this job.
    std::vector<std::string> open(found->job.scheduling().after().begin(),
                                  found->job.scheduling().after().end());
    for (size_t i = 0; i < open.size() && open.size() < 10000; ++i) {
      if (open[i] == job.name()) {
        return absl::InvalidArgumentError(absl::StrCat("scheduling.after: ", name, " waits for this job"));
      }
      const auto next = live_.find(open[i]);
      if (next == live_.end()) continue;
      const auto& after = next->second.job.scheduling().after();
      open.insert(open.end(), after.begin(), after.end());
    }
  }
  return absl::OkStatus();
}

absl::Status JobManager::Loop::CheckRoom() const {
  const config::LimitsConfig& limits = options_.config->limits;
  if (static_cast<int64_t>(scheduler_.queued()) >= limits.max_queued_jobs) {
    return QueueFull(limits.max_queued_jobs);
  }
  std::error_code error;
  const auto space = std::filesystem::space(store_->layout().state_dir, error);
  if (!error && static_cast<int64_t>(space.available) < limits.min_free_disk_bytes) {
    return ErrorWithInfo(absl::StatusCode::kResourceExhausted,
                         absl::StrCat("the disk of the state directory has ", space.available,
                                      " bytes left; new jobs need ", limits.min_free_disk_bytes),
                         "DISK_FULL", {{"free_bytes", absl::StrCat(space.available)}});
  }
  return absl::OkStatus();
}

absl::Status JobManager::Loop::CheckQuotas(const std::string& owner) {
  const config::QuotasConfig& quotas = options_.config->quotas;
  const absl::Time now = absl::Now();
  int64_t queued = 0;
  absl::Duration used = device_time_.Used(owner, now, quotas.device_time_window);
  for (const auto& [name, record] : live_) {
    if (record.job.owner() != owner) continue;
    queued += record.job.state() == v1::QUEUED;
    if (queue::HoldsDevice(record.job.state())) used += now - AttemptStart(record.job, now);
  }
  absl::Status status = CheckQueued(quotas, owner, queued);
  if (status.ok()) status = CheckDeviceTime(quotas, owner, used);
  if (!status.ok() || quotas.max_storage_bytes == 0 || IsExempt(quotas, owner)) return status;
  const auto owned = store_->OwnedBytes(owner);
  return owned.ok() ? CheckStorage(quotas, owner, *owned) : owned.status();
}

void JobManager::Loop::ChargeDeviceTime(const queue::StateChange& change, const v1::Job& job) {
  const config::QuotasConfig& quotas = options_.config->quotas;
  if (quotas.max_device_time == absl::ZeroDuration()) return;
  if (!queue::HoldsDevice(change.from) || queue::HoldsDevice(change.to)) return;
  const absl::Time now = absl::Now();
  device_time_.Add(job.owner(), AttemptStart(job, now), now, quotas.device_time_window);
}

absl::StatusOr<v1::Job> JobManager::Loop::Create(v1::Job job, const std::string& job_id,
                                                 const Caller& caller) {
  auto remembered = Remembered("CreateJob", caller);
  if (!remembered.ok()) return remembered.status();
  if (*remembered) return **std::move(remembered);
  FT_FAILPOINT("create.new");
  if (scheduler_.draining()) return Draining();
  if (absl::Status status = CheckRoom(); !status.ok()) return status;
  if (absl::Status status = CheckQuotas(caller.principal); !status.ok()) return status;

  const absl::Time now = absl::Now();
  job.set_uid(NewUuid());
  job.set_name(absl::StrCat("jobs/", job_id.empty() ? absl::StrCat(spec::MethodName(job.spec()), "-", job.uid().substr(0, 8))
                                                    : job_id));
  const auto existing = Record(job.name());
  if (existing.ok()) {
    return ErrorWithInfo(absl::StatusCode::kAlreadyExists, absl::StrCat(job.name(), " exists already"),
                         "ALREADY_EXISTS");
  }
  if (!absl::IsNotFound(existing.status())) return existing.status();
  for (const std::string& name : {job.spec().dataset(), job.spec().eval_dataset()}) {
    if (name.empty()) continue;
    const auto dataset = store_->GetDataset(name);
    if (absl::IsNotFound(dataset.status())) return NotFound("dataset", name);
    if (!dataset.ok()) return dataset.status();
  }
  if (!job.spec().init_adapter().empty()) {
    const auto adapter = store_->GetAdapter(job.spec().init_adapter());
    if (absl::IsNotFound(adapter.status())) return NotFound("adapter", job.spec().init_adapter());
    if (!adapter.ok()) return adapter.status();
  }
  if (absl::Status status = CheckDependencies(job); !status.ok()) return status;

  job.set_state(v1::QUEUED);
  job.set_state_reason(v1::WAITING_FOR_GPU);
  job.set_state_message("accepted");
  job.set_owner(caller.principal);
  *job.mutable_create_time() = ToProto(now);
  BumpEtag(&job, now);
  store::JobRecord record;
  record.job = job;
  record.queue_order = absl::ToUnixNanos(now);

  v1::Event event = NewEvent(job, now);
  event.mutable_state_changed()->set_from(v1::VALIDATING);
  event.mutable_state_changed()->set_to(v1::QUEUED);
  event.mutable_state_changed()->set_reason(v1::WAITING_FOR_GPU);
  event.mutable_state_changed()->set_message("accepted");
  queued_since_[job.name()] = now;
  v1::Job answer;
  Extra extra;
  extra.events.push_back({job.uid(), std::move(event)});
  extra.caller = &caller;
  extra.method = "CreateJob";
  extra.answer = job.name();
  extra.answered = &answer;
  extra.added = record;
  const queue::Input input = queue::Submit{ToEntry(record)};
  FT_FAILPOINT("create.checked");
  // Counted before: what the core does with it at once is counted as a change from QUEUED.
  metrics_->JobState(spec::MethodName(job.spec()), v1::JOB_STATE_UNSPECIFIED, v1::QUEUED);
  if (absl::Status status = Transact(&input, std::move(extra)); !status.ok()) {
    metrics_->JobState(spec::MethodName(job.spec()), v1::QUEUED, v1::JOB_STATE_UNSPECIFIED);
    queued_since_.erase(job.name());
    return status;
  }
  FT_FAILPOINT("create.committed");
  metrics_->JobSubmitted(spec::MethodName(job.spec()));
  return answer;
}

absl::StatusOr<v1::Job> JobManager::Loop::Command(const char* method, queue::UserRequest request,
                                                  const std::string& etag, const Caller& caller) {
  auto remembered = Remembered(method, caller);
  if (!remembered.ok()) return remembered.status();
  if (*remembered) return **std::move(remembered);
  const auto record = Record(request.job);
  if (!record.ok()) return record.status();
  if (absl::Status status = CheckEtag(record->job, etag); !status.ok()) return status;
  // A job that has ended is not in the core: the table refuses it with the same words.
  if (queue::IsTerminal(record->job.state())) {
    const auto transition = queue::FindTransition(request.event, record->job.state());
    if (!transition.ok()) return transition.status();
  }
  if (request.event == queue::JobEvent::kResume) {
    if (absl::Status status = CheckQuotas(record->job.owner()); !status.ok()) return status;
  }
  FT_FAILPOINT("command.checked");
  if (request.message.empty()) request.message = absl::StrCat("asked for by ", caller.principal);
  v1::Job answer;
  Extra extra;
  extra.caller = &caller;
  extra.method = method;
  extra.answer = request.job;
  extra.answered = &answer;
  const queue::Input input = std::move(request);
  if (absl::Status status = Transact(&input, std::move(extra)); !status.ok()) return status;
  FT_FAILPOINT("command.committed");
  return answer;
}

absl::StatusOr<v1::Job> JobManager::Loop::Retry(const std::string& name, const Caller& caller) {
  auto remembered = Remembered("RetryJob", caller);
  if (!remembered.ok()) return remembered.status();
  if (*remembered) return **std::move(remembered);
  if (scheduler_.draining()) return Draining();
  auto record = Record(name);
  if (!record.ok()) return record.status();
  const auto transition = queue::FindTransition(queue::JobEvent::kRetry, record->job.state());
  if (!transition.ok()) return transition.status();
  if (absl::Status status = CheckQuotas(record->job.owner()); !status.ok()) return status;
  record->crashes = 0;
  record->front = false;
  record->queue_order = absl::ToUnixNanos(absl::Now());
  queue::JobEntry entry = ToEntry(*record);
  entry.message = absl::StrCat("tried again by ", caller.principal);
  v1::Job answer;
  Extra extra;
  extra.added = *record;
  extra.caller = &caller;
  extra.method = "RetryJob";
  extra.answer = name;
  extra.answered = &answer;
  const queue::Input input = queue::RetryJob{std::move(entry)};
  FT_FAILPOINT("retry.checked");
  if (absl::Status status = Transact(&input, std::move(extra)); !status.ok()) return status;
  FT_FAILPOINT("retry.committed");
  return answer;
}

absl::StatusOr<v1::Job> JobManager::Loop::Update(const v1::UpdateJobRequest& request, const Caller& caller) {
  auto remembered = Remembered("UpdateJob", caller);
  if (!remembered.ok()) return remembered.status();
  if (*remembered) return **std::move(remembered);
  auto record = Record(request.job().name());
  if (!record.ok()) return record.status();
  if (absl::Status status = CheckEtag(record->job, request.job().etag()); !status.ok()) return status;
  const bool ended = queue::IsTerminal(record->job.state());
  const bool scheduling = TouchesScheduling(request.update_mask());
  if (ended && scheduling) {
    return ErrorWithInfo(absl::StatusCode::kFailedPrecondition,
                         "scheduling of a job that has ended cannot be changed", "WRONG_STATE",
                         {{"state", v1::JobState_Name(record->job.state())}});
  }
  google::protobuf::util::FieldMaskUtil::MergeOptions options;
  options.set_replace_message_fields(true);
  options.set_replace_repeated_fields(true);
  google::protobuf::util::FieldMaskUtil::MergeMessageTo(request.job(), request.update_mask(), options,
                                                        &record->job);
  if (absl::Status status = CheckDependencies(record->job); !status.ok()) return status;
  BumpEtag(&record->job, absl::Now());
  v1::Job answer;
  Extra extra;
  extra.caller = &caller;
  extra.method = "UpdateJob";
  extra.answer = request.job().name();
  extra.answered = &answer;
  extra.added = *record;
  const queue::Input input = scheduling ? queue::Input(ToReschedule(*record)) : queue::Input(queue::Tick{});
  FT_FAILPOINT("update.checked");
  if (absl::Status status = Transact(&input, std::move(extra)); !status.ok()) return status;
  FT_FAILPOINT("update.committed");
  return answer;
}

absl::StatusOr<bool> JobManager::Loop::Delete(const v1::DeleteJobRequest& request, const Caller& caller) {
  const auto remembered = Remembered("DeleteJob", caller);
  if (!remembered.ok()) return remembered.status();
  if (*remembered) return true;
  const auto record = Record(request.name());
  if (!record.ok()) return record.status();
  const v1::Job& job = record->job;
  if (absl::Status status = CheckEtag(job, request.etag()); !status.ok()) return status;
  if (!queue::IsTerminal(job.state())) {
    return ErrorWithInfo(absl::StatusCode::kFailedPrecondition,
                         absl::StrCat("cannot delete a job that is ", v1::JobState_Name(job.state()),
                                      "; cancel it first"),
                         "WRONG_STATE", {{"state", v1::JobState_Name(job.state())},
                                         {"allowed", "SUCCEEDED,FAILED,CANCELLED"}});
  }
  // Rows first: files without a row are only lost space, a row without files is a lie.
  // The adapter outlives its job: whose it is must not be forgotten with it.
  if (!request.force() && !job.output_adapter().empty()) {
    const absl::Status kept = store_->PutValue(store::OwnerKey(job.output_adapter()), job.owner());
    if (!kept.ok()) return kept;
  }
  const std::string doomed = request.force() ? job.output_adapter() : "";
  const auto adapter = store_->GetAdapter(doomed);
  if (!adapter.ok() && !absl::IsNotFound(adapter.status())) return adapter.status();
  std::optional<store::RequestRecord> remember;
  if (!caller.request_id.empty()) {
    remember = {caller.principal,   caller.request_id,       "DeleteJob",
                caller.fingerprint, job.SerializeAsString(), absl::Now()};
  }
  FT_FAILPOINT("delete.checked");
  if (absl::Status status = store_->DeleteJob(job.uid(), doomed, remember); !status.ok()) return status;
  FT_FAILPOINT("delete.committed");
  std::error_code error;
  if (adapter.ok()) std::filesystem::remove_all(adapter->directory, error);
  FT_FAILPOINT("delete.adapter_files");
  std::filesystem::remove_all(store_->layout().JobDir(job.uid()), error);
  FT_FAILPOINT("delete.job_files");
  metrics_->JobState(spec::MethodName(job.spec()), job.state(), v1::JOB_STATE_UNSPECIFIED);
  bus_->Close(job.uid(), NotFound("job", job.name()));
  return true;
}

void JobManager::Loop::Drain(absl::Duration grace, bool pause_running) {
  // Until it can be stored the daemon stays: the words are repeated by the inbox.
  inbox_.push_back([this, grace, pause_running] {
    const queue::Input input = queue::Drain{grace, pause_running};
    return Transact(&input);
  });
}

bool JobManager::Loop::UsesDataset(const std::string& name) const {
  return std::any_of(live_.begin(), live_.end(), [&](const auto& entry) {
    const v1::JobSpec& spec = entry.second.job.spec();
    return spec.dataset() == name || spec.eval_dataset() == name;
  });
}

bool JobManager::Loop::UsesAdapter(const std::string& name) const {
  return std::any_of(live_.begin(), live_.end(),
                     [&](const auto& entry) { return entry.second.job.spec().init_adapter() == name; });
}

}  // namespace finetuned::jobs
