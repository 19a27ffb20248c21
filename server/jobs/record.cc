#include "server/jobs/record.h"

#include <google/rpc/code.pb.h>
#include <google/rpc/error_details.pb.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace finetuned::jobs {

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  const int64_t nanos = absl::ToUnixNanos(time);
  proto.set_seconds(nanos / 1'000'000'000);
  proto.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return proto;
}

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  const int64_t nanos = absl::ToInt64Nanoseconds(duration);
  proto.set_seconds(nanos / 1'000'000'000);
  proto.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return proto;
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::Duration Elapsed(const v1::Job& job, absl::Time now) {
  absl::Duration total;
  for (const v1::Attempt& attempt : job.attempts()) {
    const absl::Time end = attempt.has_end_time() ? ToTime(attempt.end_time()) : now;
    total += end - ToTime(attempt.start_time());
  }
  return total;
}

absl::Time AttemptStart(const v1::Job& job, absl::Time now) {
  return job.attempts().empty() ? now : ToTime(job.attempts().rbegin()->start_time());
}

queue::JobEntry ToEntry(const store::JobRecord& record) {
  const v1::Job& job = record.job;
  const v1::Scheduling& scheduling = job.scheduling();
  queue::JobEntry entry;
  entry.name = job.name();
  entry.state = job.state();
  entry.reason = job.state_reason();
  entry.message = job.state_message();
  entry.priority = scheduling.priority();
  entry.front = record.front;
  entry.order = record.queue_order;
  entry.hold = scheduling.hold();
  entry.preemptible = scheduling.preemptible();
  if (scheduling.has_not_before()) entry.not_before = ToTime(scheduling.not_before());
  entry.after.assign(scheduling.after().begin(), scheduling.after().end());
  entry.crashes = record.crashes;
  entry.max_crashes = scheduling.max_attempts();
  const absl::Duration limit = ToDuration(scheduling.max_run_duration());
  if (limit > absl::ZeroDuration()) entry.max_run = limit;
  for (const v1::Attempt& attempt : job.attempts()) {
    const absl::Time start = ToTime(attempt.start_time());
    if (attempt.has_end_time()) {
      entry.ran_before += ToTime(attempt.end_time()) - start;
    } else {
      entry.started = start;
    }
  }
  return entry;
}

void BumpEtag(v1::Job* job, absl::Time now) {
  int64_t revision = 0;
  if (!absl::SimpleAtoi(job->etag(), &revision)) revision = 0;
  job->set_etag(absl::StrCat(revision + 1));
  *job->mutable_update_time() = ToProto(now);
}

v1::Event NewEvent(const v1::Job& job, absl::Time time) {
  v1::Event event;
  *event.mutable_time() = ToProto(time);
  event.set_attempt(job.attempt());
  return event;
}

namespace {

void BeginAttempt(const std::string& version, absl::Time now, v1::Job* job) {
  job->set_attempt(job->attempt() + 1);
  v1::Attempt* attempt = job->add_attempts();
  attempt->set_number(job->attempt());
  *attempt->mutable_start_time() = ToProto(now);
  attempt->set_daemon_version(version);
  if (!job->has_start_time()) *job->mutable_start_time() = attempt->start_time();
}

void EndAttempt(v1::StateReason reason, absl::Time now, v1::Job* job) {
  if (job->attempts().empty() || job->attempts().rbegin()->has_end_time()) return;
  v1::Attempt* attempt = job->mutable_attempts(job->attempts_size() - 1);
  *attempt->mutable_end_time() = ToProto(now);
  attempt->set_end_step(job->progress().step());
  attempt->set_end_reason(reason);
  v1::Progress* progress = job->mutable_progress();
  *progress->mutable_elapsed() = ToProto(Elapsed(*job, now));
  progress->clear_phase();
}

void SetError(const queue::StateChange& change, v1::Job* job) {
  google::rpc::Status* error = job->mutable_error();
  const bool users = change.reason == v1::INVALID_DATASET || change.reason == v1::INVALID_CONFIGURATION ||
                     change.reason == v1::DEPENDENCY_FAILED;
  error->set_code(users ? google::rpc::FAILED_PRECONDITION
                  : change.reason == v1::OUT_OF_DEVICE_MEMORY ? google::rpc::RESOURCE_EXHAUSTED
                                                              : google::rpc::ABORTED);
  error->set_message(change.message);
  google::rpc::ErrorInfo info;
  info.set_domain("finetuned");
  info.set_reason(v1::StateReason_Name(change.reason));
  error->add_details()->PackFrom(info);
}

}  // namespace

v1::Event ApplyChange(const queue::StateChange& change, const std::string& version, absl::Time now,
                      store::JobRecord* record) {
  v1::Job& job = record->job;
  job.set_state(change.to);
  job.set_state_reason(change.reason);
  job.set_state_message(change.message);
  record->front = change.front;
  record->queue_order = change.order;
  record->crashes = change.crashes;
  switch (change.effect) {
    case queue::Effect::kBeginAttempt: BeginAttempt(version, now, &job); break;
    case queue::Effect::kEndAttempt: EndAttempt(change.reason, now, &job); break;
    case queue::Effect::kEndJob:
      EndAttempt(change.reason, now, &job);
      *job.mutable_end_time() = ToProto(now);
      job.mutable_progress()->clear_remaining();
      break;
    default: break;
  }
  if (change.to == v1::FAILED) SetError(change, &job);
  if (change.event == queue::JobEvent::kRetry) {
    job.clear_error();
    job.clear_end_time();
  }
  BumpEtag(&job, now);
  v1::Event event = NewEvent(job, now);
  v1::StateChanged* told = event.mutable_state_changed();
  told->set_from(change.from);
  told->set_to(change.to);
  told->set_reason(change.reason);
  told->set_message(change.message);
  return event;
}

std::string AttemptCause(const v1::Job& job) {
  switch (job.state_reason()) {
    case v1::WORKER_CRASHED:
    case v1::WORKER_STALLED:
    case v1::GPU_XID_ERROR: return "worker_crash";
    case v1::DAEMON_RESTARTED:
    case v1::DAEMON_DRAINING: return "daemon_restart";
    case v1::WAITING_FOR_REWARD_WORKER: return "reward_worker";
    case v1::PREEMPTED: return "preemption";
    case v1::INTERNAL_ERROR: return "infrastructure";
    default: return job.attempt() == 0 ? "submit" : "user_request";
  }
}

v1::StateReason ParseReason(const std::string& text) {
  v1::StateReason reason = v1::STATE_REASON_UNSPECIFIED;
  v1::StateReason_Parse(text, &reason);
  return reason;
}

}  // namespace finetuned::jobs
