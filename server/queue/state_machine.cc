#include "server/queue/state_machine.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::queue {
namespace {

using v1::JobState;

constexpr std::array kValidating = {v1::VALIDATING};
constexpr std::array kQueued = {v1::QUEUED};
constexpr std::array kPreparing = {v1::PREPARING};
constexpr std::array kTraining = {v1::PREPARING, v1::RUNNING};
constexpr std::array kWorking = {v1::PREPARING, v1::RUNNING, v1::FINALIZING};
constexpr std::array kMayEnd = {v1::PREPARING, v1::RUNNING, v1::FINALIZING, v1::PAUSING};
constexpr std::array kMayFail = {v1::QUEUED, v1::PREPARING, v1::RUNNING, v1::FINALIZING, v1::PAUSING};
constexpr std::array kWaiting = {v1::QUEUED, v1::PAUSED};
constexpr std::array kPausing = {v1::PAUSING};
constexpr std::array kPaused = {v1::PAUSED};
constexpr std::array kCancelling = {v1::CANCELLING};
constexpr std::array kRetryable = {v1::FAILED, v1::CANCELLED};

const std::array kTable = {
    Transition{JobEvent::kAdmitted, kValidating, v1::QUEUED},
    Transition{JobEvent::kDispatched, kQueued, v1::PREPARING},
    Transition{JobEvent::kStepping, kPreparing, v1::RUNNING},
    Transition{JobEvent::kExporting, kTraining, v1::FINALIZING},
    Transition{JobEvent::kSucceeded, kMayEnd, v1::SUCCEEDED},
    Transition{JobEvent::kFailed, kMayFail, v1::FAILED},
    Transition{JobEvent::kFailed, kCancelling, v1::CANCELLED},     // it was to stop anyway
    Transition{JobEvent::kSucceeded, kCancelling, v1::CANCELLED},  // the cancel was accepted first
    Transition{JobEvent::kCancel, kWaiting, v1::CANCELLED},
    Transition{JobEvent::kCancel, kMayEnd, v1::CANCELLING},
    Transition{JobEvent::kCancelled, kCancelling, v1::CANCELLED},
    Transition{JobEvent::kPause, kQueued, v1::PAUSED},
    Transition{JobEvent::kPause, kTraining, v1::PAUSING},
    Transition{JobEvent::kLeft, kPausing, v1::PAUSED},
    Transition{JobEvent::kLeft, kWorking, v1::QUEUED},
    Transition{JobEvent::kLeft, kCancelling, v1::CANCELLED},
    Transition{JobEvent::kLost, kPausing, v1::PAUSED},
    Transition{JobEvent::kLost, kWorking, v1::QUEUED},
    Transition{JobEvent::kLost, kCancelling, v1::CANCELLED},
    Transition{JobEvent::kResume, kPaused, v1::QUEUED},
    Transition{JobEvent::kRetry, kRetryable, v1::QUEUED},
};

bool Allows(const Transition& t, JobState state) {
  return std::find(t.from.begin(), t.from.end(), state) != t.from.end();
}

}  // namespace

std::span<const Transition> Transitions() { return kTable; }

absl::StatusOr<JobState> Next(JobState state, JobEvent event) {
  std::vector<std::string> allowed;
  for (const Transition& t : kTable) {
    if (t.event != event) continue;
    if (Allows(t, state)) return t.to;
    for (JobState from : t.from) allowed.push_back(v1::JobState_Name(from));
  }
  return absl::FailedPreconditionError(absl::StrCat("the job is ", v1::JobState_Name(state), "; ",
                                                    EventName(event), " needs ",
                                                    absl::StrJoin(allowed, " or ")));
}

const char* EventName(JobEvent event) {
  static constexpr const char* kNames[kJobEvents] = {
      "admit", "dispatch", "step",  "export", "succeed", "fail",  "cancel",
      "end of cancel", "pause", "leave", "loss", "resume", "retry"};
  return kNames[static_cast<int>(event)];
}

bool IsTerminal(JobState s) { return s == v1::SUCCEEDED || s == v1::FAILED || s == v1::CANCELLED; }

bool IsActive(JobState s) {
  return s == v1::PREPARING || s == v1::RUNNING || s == v1::PAUSING || s == v1::CANCELLING ||
         s == v1::FINALIZING;
}

}  // namespace finetuned::queue
