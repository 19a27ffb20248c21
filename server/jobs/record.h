#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/queue/scheduler.h"
#include "server/store/store.h"

// How a job's message follows from what happens to it. Pure functions: no I/O, no clock.
namespace finetuned::jobs {

google::protobuf::Timestamp ToProto(absl::Time time);
absl::Time ToTime(const google::protobuf::Timestamp& time);
google::protobuf::Duration ToProto(absl::Duration duration);
absl::Duration ToDuration(const google::protobuf::Duration& duration);

// Time holding the device, all attempts; of a running one until `now`.
absl::Duration Elapsed(const v1::Job& job, absl::Time now);

// When its newest attempt was given the device; `now` when there is none.
absl::Time AttemptStart(const v1::Job& job, absl::Time now);

// What the scheduler needs to know of a stored job.
queue::JobEntry ToEntry(const store::JobRecord& record);

// A new etag and update time: for changes a client cares about, not for progress.
void BumpEtag(v1::Job* job, absl::Time now);

// Applies a change of state and gives the event that tells it.
v1::Event ApplyChange(const queue::StateChange& change, const std::string& version, absl::Time now,
                      store::JobRecord* record);

// Starts an event of the job's present attempt.
v1::Event NewEvent(const v1::Job& job, absl::Time time);

// What caused the next attempt of a queued job, for the metrics: "submit", "worker_crash", ...
std::string AttemptCause(const v1::Job& job);

// The stable name of a reason the worker gave: "OUT_OF_DEVICE_MEMORY"; UNSPECIFIED when unknown.
v1::StateReason ParseReason(const std::string& reason);

}  // namespace finetuned::jobs
