#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "finetuned/v1/state.pb.h"

// The life of a job as one table: an event, the states it is allowed in, the state it leads to.
namespace finetuned::queue {

enum class JobEvent {
  kAdmitted,    // validated and persisted
  kDispatched,  // handed to the worker
  kStepping,    // the worker began to train
  kExporting,   // the worker writes the result
  kSucceeded,   // the worker is done
  kFailed,      // a user error, or an infrastructure failure too many
  kCancel,      // asked for by a client
  kCancelled,   // the worker stopped, or is gone
  kPause,       // asked for by a client
  kLeft,        // the worker wrote a checkpoint and gave the job back
  kLost,        // the worker or the daemon died while it had the job
  kResume,      // asked for by a client
  kRetry,       // asked for by a client
};
inline constexpr int kJobEvents = 13;

struct Transition {
  JobEvent event;
  std::span<const v1::JobState> from;
  v1::JobState to;
};

// Every allowed move. What is not here is an error.
std::span<const Transition> Transitions();

// FAILED_PRECONDITION names the state and the states in which the event is allowed.
absl::StatusOr<v1::JobState> Next(v1::JobState state, JobEvent event);

const char* EventName(JobEvent event);
bool IsTerminal(v1::JobState state);
// The worker has the job.
bool IsActive(v1::JobState state);

}  // namespace finetuned::queue
