#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "finetuned/v1/state.pb.h"

// The life of a job: one table of what may happen in which state.
namespace finetuned::queue {

enum class JobEvent {
  kAdmit,      // checked and durable
  kStart,      // given the device
  kTrain,      // the worker takes its first step
  kExport,     // the worker has taken its last step
  kCheckpoint, // user: write a checkpoint and go on
  kStop,       // user: finish early with a result
  kPause,      // user: give up the device, keep the work
  kDrain,      // the daemon is about to leave
  kPreempt,    // a job of a higher priority waits
  kLoseReward, // nobody scores its completions
  kLeft,       // the worker wrote a checkpoint and let go
  kRequeue,    // back to the queue: crash, drain, lost worker
  kResume,     // user: back into the queue
  kFindReward, // somebody can score its completions again
  kCancel,     // user: throw away
  kCancelled,  // the worker has let go after a cancel
  kSucceed,    // the worker delivered the adapter
  kFail,       // cannot succeed
  kRetry,      // user: once more
  kRestart,    // found in the store when the daemon started
};

// What the scheduler does besides the change of state.
enum class Effect {
  kNone,
  kBeginAttempt,   // attempt + 1, run it on the worker
  kSignalCheckpoint,
  kSignalFinish,
  kSignalLeave,
  kSignalCancel,
  kEndAttempt,     // the attempt is over, the job is not
  kEndJob,         // the attempt, if any, and the job are over
};

struct Transition {
  JobEvent event;
  std::vector<v1::JobState> from;
  v1::JobState to;
  Effect effect;
};

// Every allowed transition (one that leads back to its state is told to nobody); a pair of event and state occurs at most once.
absl::Span<const Transition> Transitions();

// The transition, or FAILED_PRECONDITION with a PreconditionFailure detail naming the state and the
// states in which the event is possible.
absl::StatusOr<const Transition*> FindTransition(JobEvent event, v1::JobState state);

bool IsTerminal(v1::JobState state);
// PREPARING, RUNNING, PAUSING, CANCELLING, FINALIZING: the worker has it.
bool HoldsDevice(v1::JobState state);

const char* EventName(JobEvent event);             // "pause"
std::string StateName(v1::JobState state);         // "running"
std::string ReasonName(v1::StateReason reason);    // "worker_crashed"

}  // namespace finetuned::queue
