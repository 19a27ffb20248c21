#include "server/queue/state_machine.h"

#include <map>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finetuned::queue {
namespace {

using v1::JobState;

constexpr JobState kStates[] = {v1::VALIDATING, v1::QUEUED,    v1::PREPARING, v1::RUNNING,
                                v1::PAUSING,    v1::PAUSED,    v1::CANCELLING, v1::FINALIZING,
                                v1::SUCCEEDED,  v1::FAILED,    v1::CANCELLED};
constexpr JobEvent kEvents[] = {
    JobEvent::kAdmit,      JobEvent::kStart,  JobEvent::kTrain,  JobEvent::kExport,    JobEvent::kCheckpoint,
    JobEvent::kStop,       JobEvent::kPause,  JobEvent::kDrain,  JobEvent::kLeft,      JobEvent::kRequeue,
    JobEvent::kResume,     JobEvent::kCancel, JobEvent::kCancelled, JobEvent::kSucceed, JobEvent::kFail,
    JobEvent::kRetry,      JobEvent::kRestart, JobEvent::kPreempt, JobEvent::kLoseReward, JobEvent::kFindReward};

// One row per event, one column per state of kStates: where it leads, by the first letters; "." for
// an error. Written by hand, independently of the table.
// clang-format off
const std::map<JobEvent, std::string> kExpected = {
    //                        VAL QUE PRE RUN PAUSING PAUSED CAN FIN SUC FAI CANCELLED
    {JobEvent::kAdmit,       "QUE .   .   .   .       .      .   .   .   .   ."},
    {JobEvent::kStart,       ".   PRE .   .   .       .      .   .   .   .   ."},
    {JobEvent::kTrain,       ".   .   RUN .   .       .      .   .   .   .   ."},
    {JobEvent::kExport,      ".   .   FIN FIN .       .      .   .   .   .   ."},
    {JobEvent::kCheckpoint,  ".   .   .   RUN .       .      .   .   .   .   ."},
    {JobEvent::kStop,        ".   .   .   FIN .       .      .   .   .   .   ."},
    {JobEvent::kPause,       ".   PAUSED PAUSING PAUSING . . .   .   .   .   ."},
    {JobEvent::kDrain,       ".   .   PAUSING PAUSING .  .   .   .   .   .   ."},
    {JobEvent::kPreempt,     ".   .   PAUSING PAUSING .  .   .   .   .   .   ."},
    {JobEvent::kLeft,        ".   .   PAUSED PAUSED PAUSED . .   PAUSED . .  ."},
    {JobEvent::kRequeue,     ".   .   QUE QUE QUE     .      .   QUE .   .   ."},
    {JobEvent::kResume,      ".   .   .   .   .       QUE    .   .   .   .   ."},
    {JobEvent::kLoseReward,  ".   .   .   PAUSING .   .      .   .   .   .   ."},
    {JobEvent::kFindReward,  ".   .   .   .   .       QUE    .   .   .   .   ."},
    {JobEvent::kCancel,      ".   CANCELLED CANCELLING CANCELLING CANCELLING CANCELLED . CANCELLING . . ."},
    {JobEvent::kCancelled,   ".   .   .   .   .       .      CANCELLED . . . ."},
    {JobEvent::kSucceed,     ".   .   SUC SUC SUC     .      .   SUC .   .   ."},
    {JobEvent::kFail,        ".   FAI FAI FAI FAI     .      FAI FAI .   .   ."},
    {JobEvent::kRetry,       ".   .   .   .   .       .      .   .   .   QUE QUE"},
    {JobEvent::kRestart,     "QUE .   QUE QUE PAUSED  .      CANCELLED QUE . . ."},
};
// clang-format on

TEST(StateMachine, EveryPairOfStateAndEventDoesWhatIsWritten) {
  for (const JobEvent event : kEvents) {
    std::istringstream row(kExpected.at(event));
    for (const JobState state : kStates) {
      std::string wanted;
      ASSERT_TRUE(row >> wanted) << EventName(event);
      const auto transition = FindTransition(event, state);
      const std::string pair = std::string(EventName(event)) + " in " + StateName(state);
      if (wanted == ".") {
        EXPECT_TRUE(absl::IsFailedPrecondition(transition.status())) << pair;
        continue;
      }
      ASSERT_TRUE(transition.ok()) << pair << ": " << transition.status();
      EXPECT_EQ(v1::JobState_Name((*transition)->to).rfind(wanted, 0), 0u)
          << pair << " leads to " << StateName((*transition)->to);
    }
  }
}

TEST(StateMachine, NoPairOccursTwice) {
  std::set<std::pair<JobEvent, JobState>> seen;
  for (const Transition& transition : Transitions()) {
    for (const JobState from : transition.from) {
      EXPECT_TRUE(seen.emplace(transition.event, from).second)
          << EventName(transition.event) << " in " << StateName(from);
    }
  }
}

TEST(StateMachine, EveryStateThatHoldsTheDeviceCanLeaveIt) {
  for (const JobState state : kStates) {
    if (!HoldsDevice(state)) continue;
    bool leaves = false;
    for (const Transition& t : Transitions()) {
      for (const JobState from : t.from) leaves |= from == state && !HoldsDevice(t.to);
    }
    EXPECT_TRUE(leaves) << StateName(state);
  }
}

TEST(StateMachine, TerminalStatesAreLeftByRetryOnly) {
  for (const Transition& transition : Transitions()) {
    for (const JobState from : transition.from) {
      if (IsTerminal(from)) EXPECT_EQ(transition.event, JobEvent::kRetry);
    }
  }
}

TEST(StateMachine, ErrorNamesStateAndWhatWouldBeAllowed) {
  const auto transition = FindTransition(JobEvent::kPause, v1::SUCCEEDED);
  EXPECT_EQ(transition.status().message(),
            "cannot pause a job that is SUCCEEDED; possible when it is QUEUED, PREPARING, RUNNING");
  EXPECT_TRUE(transition.status().GetPayload("type.googleapis.com/google.rpc.PreconditionFailure"));
}

}  // namespace
}  // namespace finetuned::queue
