#include "server/queue/state_machine.h"

#include <algorithm>

#include <google/rpc/error_details.pb.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::queue {
namespace {

using v1::CANCELLED;
using v1::CANCELLING;
using v1::FAILED;
using v1::FINALIZING;
using v1::PAUSED;
using v1::PAUSING;
using v1::PREPARING;
using v1::QUEUED;
using v1::RUNNING;
using v1::SUCCEEDED;
using v1::VALIDATING;

const std::vector<Transition>& Table() {
  static const auto* const table = new std::vector<Transition>{
      // The way of every job that goes well.
      {JobEvent::kAdmit, {VALIDATING}, QUEUED, Effect::kNone},
      {JobEvent::kStart, {QUEUED}, PREPARING, Effect::kBeginAttempt},
      {JobEvent::kTrain, {PREPARING}, RUNNING, Effect::kNone},
      {JobEvent::kExport, {PREPARING, RUNNING}, FINALIZING, Effect::kNone},
      // A run may end before the word of its last phase came, or before a pause took effect.
      {JobEvent::kSucceed, {PREPARING, RUNNING, PAUSING, FINALIZING}, SUCCEEDED, Effect::kEndJob},

      {JobEvent::kCheckpoint, {RUNNING}, RUNNING, Effect::kSignalCheckpoint},
      {JobEvent::kStop, {RUNNING}, FINALIZING, Effect::kSignalFinish},

      {JobEvent::kPause, {QUEUED}, PAUSED, Effect::kNone},
      {JobEvent::kPause, {PREPARING, RUNNING}, PAUSING, Effect::kSignalLeave},
      {JobEvent::kDrain, {PREPARING, RUNNING}, PAUSING, Effect::kSignalLeave},
      {JobEvent::kPreempt, {PREPARING, RUNNING}, PAUSING, Effect::kSignalLeave},
      {JobEvent::kLoseReward, {RUNNING}, PAUSING, Effect::kSignalLeave},
      {JobEvent::kLeft, {PREPARING, RUNNING, PAUSING, FINALIZING}, PAUSED, Effect::kEndAttempt},
      {JobEvent::kResume, {PAUSED}, QUEUED, Effect::kNone},
      {JobEvent::kFindReward, {PAUSED}, QUEUED, Effect::kNone},

      {JobEvent::kRequeue, {PREPARING, RUNNING, PAUSING, FINALIZING}, QUEUED, Effect::kEndAttempt},
      {JobEvent::kFail,
       {QUEUED, PREPARING, RUNNING, PAUSING, CANCELLING, FINALIZING},
       FAILED,
       Effect::kEndJob},

      {JobEvent::kCancel, {QUEUED, PAUSED}, CANCELLED, Effect::kEndJob},
      {JobEvent::kCancel, {PREPARING, RUNNING, PAUSING, FINALIZING}, CANCELLING, Effect::kSignalCancel},
      {JobEvent::kCancelled, {CANCELLING}, CANCELLED, Effect::kEndJob},

      {JobEvent::kRetry, {FAILED, CANCELLED}, QUEUED, Effect::kNone},

      {JobEvent::kRestart, {VALIDATING}, QUEUED, Effect::kNone},
      {JobEvent::kRestart, {PREPARING, RUNNING, FINALIZING}, QUEUED, Effect::kEndAttempt},
      {JobEvent::kRestart, {PAUSING}, PAUSED, Effect::kEndAttempt},
      {JobEvent::kRestart, {CANCELLING}, CANCELLED, Effect::kEndJob},
  };
  return *table;
}

absl::Status NotPossible(JobEvent event, v1::JobState state) {
  std::vector<std::string> allowed;
  for (const Transition& transition : Table()) {
    if (transition.event != event) continue;
    for (const v1::JobState from : transition.from) allowed.push_back(v1::JobState_Name(from));
  }
  const std::string message =
      absl::StrCat("cannot ", EventName(event), " a job that is ", v1::JobState_Name(state),
                   "; possible when it is ", absl::StrJoin(allowed, ", "));
  absl::Status status = absl::FailedPreconditionError(message);
  google::rpc::PreconditionFailure detail;
  auto* violation = detail.add_violations();
  violation->set_type("STATE");
  violation->set_subject(v1::JobState_Name(state));
  violation->set_description(absl::StrCat("allowed: ", absl::StrJoin(allowed, ",")));
  status.SetPayload("type.googleapis.com/google.rpc.PreconditionFailure",
                    absl::Cord(detail.SerializeAsString()));
  google::rpc::ErrorInfo info;
  info.set_domain("finetuned");
  info.set_reason("WRONG_STATE");
  (*info.mutable_metadata())["state"] = v1::JobState_Name(state);
  (*info.mutable_metadata())["allowed"] = absl::StrJoin(allowed, ",");
  status.SetPayload("type.googleapis.com/google.rpc.ErrorInfo", absl::Cord(info.SerializeAsString()));
  return status;
}

}  // namespace

absl::Span<const Transition> Transitions() { return Table(); }

absl::StatusOr<const Transition*> FindTransition(JobEvent event, v1::JobState state) {
  for (const Transition& transition : Table()) {
    if (transition.event != event) continue;
    if (std::find(transition.from.begin(), transition.from.end(), state) != transition.from.end()) {
      return &transition;
    }
  }
  return NotPossible(event, state);
}

bool IsTerminal(v1::JobState state) {
  return state == SUCCEEDED || state == FAILED || state == CANCELLED;
}

bool HoldsDevice(v1::JobState state) {
  return state == PREPARING || state == RUNNING || state == PAUSING || state == CANCELLING ||
         state == FINALIZING;
}

const char* EventName(JobEvent event) {
  switch (event) {
    case JobEvent::kAdmit: return "admit";
    case JobEvent::kStart: return "start";
    case JobEvent::kTrain: return "train";
    case JobEvent::kExport: return "export";
    case JobEvent::kCheckpoint: return "checkpoint";
    case JobEvent::kStop: return "stop";
    case JobEvent::kPause: return "pause";
    case JobEvent::kDrain: return "drain";
    case JobEvent::kPreempt: return "preempt";
    case JobEvent::kLeft: return "leave";
    case JobEvent::kRequeue: return "requeue";
    case JobEvent::kResume: return "resume";
    case JobEvent::kLoseReward: return "pause without rewards";
    case JobEvent::kFindReward: return "resume with rewards";
    case JobEvent::kCancel: return "cancel";
    case JobEvent::kCancelled: return "end the cancel of";
    case JobEvent::kSucceed: return "complete";
    case JobEvent::kFail: return "fail";
    case JobEvent::kRetry: return "retry";
    case JobEvent::kRestart: return "restart";
  }
  return "?";
}

std::string StateName(v1::JobState state) { return absl::AsciiStrToLower(v1::JobState_Name(state)); }
std::string ReasonName(v1::StateReason reason) {
  return reason == v1::STATE_REASON_UNSPECIFIED ? "none"
                                                : absl::AsciiStrToLower(v1::StateReason_Name(reason));
}

}  // namespace finetuned::queue
