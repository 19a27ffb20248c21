#include "server/queue/scheduler.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::queue {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Drives a scheduler with a clock that the test moves, and writes actions as short texts.
class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() : scheduler_(Options(), [this](const std::string& job) { return succeeded_.contains(job); }) {}

  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.heartbeat_timeout = absl::Seconds(30);
    options.progress_timeout = absl::Minutes(10);
    options.idle_timeout = absl::Minutes(5);
    return options;
  }
  std::vector<std::string> Do(const Input& input) {
    auto actions = scheduler_.Step(input, now_);
    if (!actions.ok()) return {absl::StrCat("error: ", actions.status().message())};
    scheduler_.Commit();
    return Show(*actions);
  }
  static std::vector<std::string> Show(const std::vector<Action>& actions) {
    std::vector<std::string> texts;
    for (const Action& action : actions) texts.push_back(ShowOne(action));
    return texts;
  }
  static std::string ShowOne(const Action& action) {
    if (const auto* c = std::get_if<StateChange>(&action)) {
      const std::string reason = c->reason ? "/" + ReasonName(c->reason) : "";
      return absl::StrCat(c->job, " ", StateName(c->to), reason);
    }
    if (std::holds_alternative<StartWorker>(action)) return "start worker";
    if (std::holds_alternative<StopWorker>(action)) return "stop worker";
    if (std::holds_alternative<KillWorker>(action)) return "kill worker";
    if (const auto* r = std::get_if<RunJob>(&action)) return "run " + r->job;
    if (const auto* s = std::get_if<SignalJob>(&action)) {
      static constexpr const char* kNames[] = {"checkpoint", "leave", "finish", "cancel"};
      return absl::StrCat("signal ", s->job, " ", kNames[static_cast<int>(s->kind)]);
    }
    return "drained";
  }
  JobEntry Job(const std::string& name, int priority = 0) {
    JobEntry job;
    job.name = name;
    job.priority = priority;
    job.order = ++order_;
    return job;
  }
  std::vector<std::string> Ask(const std::string& job, JobEvent event) {
    return Do(UserRequest{job, event, "asked"});
  }
  // A job that takes steps.
  void Run(const std::string& name) {
    Do(Submit{Job(name)});
    if (scheduler_.worker() == WorkerState::kStarting) Do(WorkerReady{});
    Do(WorkerPhase{name, "training"});
    ASSERT_EQ(scheduler_.Find(name)->state, v1::RUNNING);
  }
  std::vector<std::string> Later(absl::Duration d) {
    now_ += d;
    return Do(Tick{});
  }

  std::set<std::string> succeeded_;
  absl::Time now_ = absl::FromUnixSeconds(1000000);
  int64_t order_ = 0;
  Scheduler scheduler_;
};

TEST_F(SchedulerTest, JobGoesThroughItsLife) {
  EXPECT_THAT(Do(Submit{Job("a")}), ElementsAre("a preparing", "start worker"));
  EXPECT_THAT(Do(WorkerReady{}), ElementsAre("run a"));
  EXPECT_THAT(Do(WorkerPhase{"a", "loading"}), IsEmpty());
  EXPECT_THAT(Do(WorkerPhase{"a", "training"}), ElementsAre("a running"));
  EXPECT_THAT(Do(WorkerPhase{"a", "exporting"}), ElementsAre("a finalizing"));
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a succeeded"));
  EXPECT_EQ(scheduler_.worker(), WorkerState::kIdle);
}

TEST_F(SchedulerTest, WarmWorkerTakesTheNextJobAtOnce) {
  Run("a");
  EXPECT_THAT(Do(Submit{Job("b")}), IsEmpty());
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a succeeded", "b preparing", "run b"));
}

TEST_F(SchedulerTest, LargerPriorityFirstThenOrderOfSubmission) {
  Run("first");
  Do(Submit{Job("low", -1)});
  Do(Submit{Job("early")});
  Do(Submit{Job("late")});
  Do(Submit{Job("urgent", 5)});
  const auto waits = scheduler_.Waits(now_);
  EXPECT_EQ(waits.at("urgent").position, 1);
  EXPECT_EQ(waits.at("early").position, 2);
  EXPECT_EQ(waits.at("late").position, 3);
  EXPECT_EQ(waits.at("low").position, 4);
  EXPECT_EQ(waits.at("urgent").why, "It is next; first has the device.");
  EXPECT_EQ(waits.at("late").why, "Number 3 in the queue, behind early.");
}

TEST_F(SchedulerTest, CrashedJobGoesToTheHeadOfItsPriority) {
  Run("a");
  Do(Submit{Job("b")});
  Do(Submit{Job("c", 1)});
  EXPECT_THAT(Do(WorkerGone{"the worker was killed"}), ElementsAre("a queued/worker_crashed"));
  EXPECT_EQ(scheduler_.Waits(now_).at("c").position, 1);
  EXPECT_EQ(scheduler_.Waits(now_).at("a").position, 2);
  EXPECT_THAT(Later(absl::Seconds(1)), ElementsAre("c preparing", "start worker"));
}

TEST_F(SchedulerTest, ThirdCrashOfAJobFailsIt) {
  Run("a");
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Do(WorkerGone{"it died"}), ElementsAre("a queued/worker_crashed"));
    EXPECT_THAT(Later(absl::Seconds(2)), ElementsAre("a preparing", "start worker"));
    Do(WorkerReady{});
  }
  EXPECT_THAT(Do(WorkerGone{"it died"}), ElementsAre("a failed/worker_crashed"));
}

TEST_F(SchedulerTest, WorkerThatNeverStartsFailsTheJobToo) {
  Do(Submit{Job("a")});
  Do(WorkerGone{"cannot be started"});
  EXPECT_THAT(Later(absl::Seconds(1)), ElementsAre("a preparing", "start worker"));
  Do(WorkerGone{"cannot be started"});
  Later(absl::Seconds(2));
  EXPECT_THAT(Do(WorkerGone{"cannot be started"}), ElementsAre("a failed/worker_crashed"));
}

TEST_F(SchedulerTest, SilentWorkerIsKilledAndTheJobStartsAgain) {
  Run("a");
  EXPECT_THAT(Later(absl::Seconds(29)), IsEmpty());
  EXPECT_THAT(Later(absl::Seconds(1)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("a queued/worker_stalled"));
}

TEST_F(SchedulerTest, TimeInWhichTheDaemonHungIsNotHeldAgainstTheWorker) {
  Run("a");
  now_ += absl::Seconds(40);
  scheduler_.Excuse(absl::Seconds(40));
  EXPECT_THAT(Do(Submit{Job("b")}), IsEmpty());
  EXPECT_THAT(Later(absl::Seconds(29)), IsEmpty());
  EXPECT_THAT(Later(absl::Seconds(1)), ElementsAre("kill worker")) << "from then on it is";
}

TEST_F(SchedulerTest, WorkerOfAGpuThatFailedIsKilledAndTheJobTriedAgain) {
  EXPECT_THAT(Do(DeviceFailed{"lost its GPU"}), IsEmpty()) << "nobody uses it";
  Run("a");
  EXPECT_THAT(Do(DeviceFailed{"lost its GPU: XID 79"}), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("a queued/gpu_xid_error"));
  EXPECT_EQ(scheduler_.Find("a")->message, "the worker lost its GPU: XID 79");
}

TEST_F(SchedulerTest, WorkerThatOnlyBeatsIsKilledInTheEnd) {
  Run("a");
  for (int i = 0; i < 30; ++i) {
    now_ += absl::Seconds(20);
    const auto actions = Do(WorkerAlive{false});
    if (!actions.empty()) {
      EXPECT_THAT(actions, ElementsAre("kill worker"));
      EXPECT_GE(i, 28);
      return;
    }
  }
  FAIL() << "never killed";
}

TEST_F(SchedulerTest, WorkerThatDoesNotSayHelloIsKilled) {
  Do(Submit{Job("a")});
  EXPECT_THAT(Later(absl::Seconds(60)), ElementsAre("kill worker"));
}

TEST_F(SchedulerTest, PausedJobLeavesAndResumes) {
  Run("a");
  EXPECT_THAT(Ask("a", JobEvent::kPause), ElementsAre("a pausing/user_requested", "signal a leave"));
  EXPECT_THAT(Do(WorkerDone{"a", 75}), ElementsAre("a paused/user_requested"));
  EXPECT_EQ(scheduler_.worker(), WorkerState::kIdle);
  EXPECT_THAT(Ask("a", JobEvent::kResume),
              ElementsAre("a queued/user_requested", "a preparing", "run a"));
}

TEST_F(SchedulerTest, PauseThatTakesTooLongKillsButKeepsTheJobPaused) {
  Run("a");
  Do(UserRequest{"a", JobEvent::kPause, "", absl::Seconds(5)});
  EXPECT_THAT(Later(absl::Seconds(5)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("a paused/user_requested"));
}

TEST_F(SchedulerTest, CancelSignalsThenKills) {
  Run("a");
  EXPECT_THAT(Ask("a", JobEvent::kCancel), ElementsAre("a cancelling/user_requested", "signal a cancel"));
  EXPECT_THAT(Later(absl::Seconds(30)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("a cancelled/user_requested"));
}

TEST_F(SchedulerTest, CancelWinsOverASuccessThatComesLater) {
  Run("a");
  Ask("a", JobEvent::kCancel);
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a cancelled/user_requested"));
}

TEST_F(SchedulerTest, JobWhoseWorkerStillStartsIsCancelledAtOnce) {
  Do(Submit{Job("a")});
  EXPECT_THAT(Ask("a", JobEvent::kCancel),
              ElementsAre("a cancelling/user_requested", "a cancelled/user_requested"));
  EXPECT_THAT(Do(Submit{Job("b")}), ElementsAre("b preparing"));
  EXPECT_THAT(Do(WorkerReady{}), ElementsAre("run b"));
}

TEST_F(SchedulerTest, StopFinishesEarly) {
  Run("a");
  EXPECT_THAT(Ask("a", JobEvent::kStop), ElementsAre("a finalizing/user_requested", "signal a finish"));
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a succeeded"));
}

TEST_F(SchedulerTest, CheckpointIsASignalWithoutAChange) {
  Run("a");
  EXPECT_THAT(Ask("a", JobEvent::kCheckpoint), ElementsAre("signal a checkpoint"));
  Do(Submit{Job("b")});
  EXPECT_THAT(Ask("b", JobEvent::kCheckpoint), ElementsAre(HasSubstr("error: cannot checkpoint")));
}

TEST_F(SchedulerTest, BadDataFailsWithItsReasonAndKeepsTheWorker) {
  Run("a");
  EXPECT_THAT(Do(WorkerDone{"a", 65, v1::INVALID_DATASET, "line 3"}), ElementsAre("a failed/invalid_dataset"));
  EXPECT_EQ(scheduler_.worker(), WorkerState::kIdle);
}

TEST_F(SchedulerTest, InternalErrorReplacesTheWorker) {
  Run("a");
  EXPECT_THAT(Do(WorkerDone{"a", 70, v1::OUT_OF_DEVICE_MEMORY, "no room"}),
              ElementsAre("a failed/out_of_device_memory", "stop worker"));
  Do(Submit{Job("b")});
  EXPECT_THAT(Do(WorkerGone{"ended"}), ElementsAre("b preparing", "start worker"));
}

TEST_F(SchedulerTest, FullDiskPausesInsteadOfFailing) {
  Run("a");
  EXPECT_THAT(Do(WorkerDone{"a", 70, v1::DISK_FULL, "no space"}),
              ElementsAre("a paused/disk_full", "stop worker"));
}

TEST_F(SchedulerTest, MemoryTakenByOthersPausesAndKeepsTheWorker) {
  Run("a");
  EXPECT_THAT(Do(WorkerDone{"a", 75, v1::OUT_OF_DEVICE_MEMORY, "another process holds it"}),
              ElementsAre("a paused/out_of_device_memory"));
}

TEST_F(SchedulerTest, PreemptibleJobGivesWayToAHigherPriorityAndComesBackFirst) {
  JobEntry mild = Job("mild");
  mild.preemptible = true;
  Do(Submit{mild});
  Do(WorkerReady{});
  Do(WorkerPhase{"mild", "training"});
  Do(Submit{Job("equal")});
  EXPECT_THAT(Do(Submit{Job("urgent", 1)}), ElementsAre("mild pausing/preempted", "signal mild leave"));
  EXPECT_EQ(scheduler_.Find("mild")->message, "gives way to urgent, whose priority is 1");
  EXPECT_EQ(scheduler_.Waits(now_).at("urgent").why,
            "It is next; mild writes a checkpoint and gives up the device.");
  EXPECT_THAT(Do(Submit{Job("later", 2)}), IsEmpty()) << "told once";
  EXPECT_THAT(Do(WorkerDone{"mild", 75}), ElementsAre("mild queued/preempted", "later preparing", "run later"));
  EXPECT_EQ(scheduler_.Find("mild")->crashes, 0);
  EXPECT_EQ(scheduler_.Waits(now_).at("urgent").position, 1);
  EXPECT_EQ(scheduler_.Waits(now_).at("mild").position, 2) << "ahead of its own priority";
  EXPECT_EQ(scheduler_.Waits(now_).at("equal").position, 3);
}

TEST_F(SchedulerTest, NobodyIsPreemptedByEqualsByHeldOrForOneThatWaits) {
  JobEntry mild = Job("mild", 3);
  mild.preemptible = true;
  Do(Submit{mild});
  Do(WorkerReady{});
  Do(WorkerPhase{"mild", "training"});
  EXPECT_THAT(Do(Submit{Job("equal", 3)}), IsEmpty());
  JobEntry held = Job("held", 9), later = Job("later", 9);
  held.hold = true;
  later.not_before = now_ + absl::Hours(1);
  EXPECT_THAT(Do(Submit{held}), IsEmpty());
  EXPECT_THAT(Do(Submit{later}), IsEmpty());
  // The time it waits for comes while the other one runs.
  now_ += absl::Minutes(59);
  Do(WorkerAlive{true});
  now_ += absl::Minutes(1);
  EXPECT_THAT(Do(WorkerAlive{true}), ElementsAre("mild pausing/preempted", "signal mild leave"));
}

TEST_F(SchedulerTest, JobThatIsNotPreemptibleKeepsTheDevice) {
  Run("a");
  EXPECT_THAT(Do(Submit{Job("urgent", 100)}), IsEmpty());
  Reschedule now_mild{"a"};
  now_mild.preemptible = true;
  EXPECT_THAT(Do(now_mild), ElementsAre("a pausing/preempted", "signal a leave"));
}

TEST_F(SchedulerTest, PreemptedJobWhoseWorkerStillStartsGivesWayAtOnce) {
  JobEntry mild = Job("mild");
  mild.preemptible = true;
  Do(Submit{mild});
  EXPECT_THAT(Do(Submit{Job("urgent", 1)}),
              ElementsAre("mild pausing/preempted", "mild queued/preempted", "urgent preparing"));
  EXPECT_THAT(Do(WorkerReady{}), ElementsAre("run urgent"));
}

TEST_F(SchedulerTest, PreemptedJobThatDoesNotLeaveIsKilledAndStillNotCountedAsCrashed) {
  JobEntry mild = Job("mild");
  mild.preemptible = true;
  Do(Submit{mild});
  Do(WorkerReady{});
  EXPECT_THAT(Do(Submit{Job("urgent", 1)}), IsEmpty()) << "it is loading";
  EXPECT_THAT(Do(WorkerPhase{"mild", "training"}),
              ElementsAre("mild running", "mild pausing/preempted", "signal mild leave"));
  // It beats and does not leave.
  now_ += absl::Seconds(29);
  Do(WorkerAlive{true});
  now_ += absl::Seconds(29);
  Do(WorkerAlive{true});
  EXPECT_THAT(Later(absl::Seconds(2)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("mild queued/preempted", "urgent preparing", "start worker"));
  EXPECT_EQ(scheduler_.Find("mild")->crashes, 0);
}

TEST_F(SchedulerTest, BootQueuesWhatWasGivingWay) {
  JobEntry job = Job("a");
  job.state = v1::PAUSING;
  job.reason = v1::PREEMPTED;
  EXPECT_THAT(Show(scheduler_.Boot({job}, now_)), ElementsAre("a queued/daemon_restarted"));
  EXPECT_TRUE(scheduler_.Find("a")->front);
}

TEST_F(SchedulerTest, FailureOfTheMachineIsTriedAgainAndInTheEndFails) {
  Run("a");
  const WorkerDone broken{"a", 70, v1::INTERNAL_ERROR, "cannot read the disk", true};
  EXPECT_THAT(Do(broken), ElementsAre("a queued/internal_error", "stop worker"));
  for (int i = 0; i < 2; ++i) {
    Do(WorkerGone{"ended"});
    EXPECT_THAT(Later(absl::Seconds(2)), ElementsAre("a preparing", "start worker"));
    Do(WorkerReady{});
    const auto actions = Do(broken);
    EXPECT_THAT(actions[0], i == 0 ? "a queued/internal_error" : "a failed/internal_error");
  }
}

TEST_F(SchedulerTest, HeldJobWaitsUntilReleased) {
  JobEntry held = Job("a");
  held.hold = true;
  EXPECT_THAT(Do(Submit{held}), IsEmpty());
  EXPECT_EQ(scheduler_.Waits(now_).at("a").reason, v1::HELD);
  EXPECT_THAT(Do(Reschedule{"a"}), ElementsAre("a preparing", "start worker"));
}

TEST_F(SchedulerTest, JobStartsNoEarlierThanItsTime) {
  JobEntry job = Job("a");
  job.not_before = now_ + absl::Hours(1);
  EXPECT_THAT(Do(Submit{job}), IsEmpty());
  EXPECT_EQ(scheduler_.NextDeadline(now_), job.not_before);
  EXPECT_EQ(scheduler_.Waits(now_).at("a").reason, v1::WAITING_FOR_START_TIME);
  EXPECT_THAT(Later(absl::Hours(1)), ElementsAre("a preparing", "start worker"));
}

TEST_F(SchedulerTest, DependentJobRunsAfterItsDependencySucceeded) {
  Run("a");
  JobEntry b = Job("b", 9);
  b.after = {"a", "earlier"};
  succeeded_.insert("earlier");
  Do(Submit{b});
  EXPECT_EQ(scheduler_.Waits(now_).at("b").why, "It waits for a to succeed.");
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a succeeded", "b preparing", "run b"));
}

TEST_F(SchedulerTest, FailureOfADependencyFailsTheWholeChain) {
  Run("a");
  JobEntry b = Job("b"), c = Job("c");
  b.after = {"a"};
  c.after = {"b"};
  Do(Submit{b});
  Do(Submit{c});
  EXPECT_THAT(Do(WorkerDone{"a", 65, v1::INVALID_DATASET}),
              ElementsAre("a failed/invalid_dataset", "b failed/dependency_failed", "c failed/dependency_failed"));
}

TEST_F(SchedulerTest, RunLongerThanItsLimitFails) {
  JobEntry job = Job("a");
  job.max_run = absl::Seconds(20);
  Do(Submit{job});
  Do(WorkerReady{});
  EXPECT_THAT(Later(absl::Seconds(20)),
              ElementsAre("a cancelling/max_run_duration_exceeded", "signal a cancel"));
  EXPECT_THAT(Do(WorkerDone{"a", 79}), ElementsAre("a failed/max_run_duration_exceeded"));
}

TEST_F(SchedulerTest, IdleWorkerLeavesInTheEnd) {
  Run("a");
  Do(WorkerDone{"a", 0});
  EXPECT_THAT(Later(absl::Minutes(5) - absl::Seconds(1)), IsEmpty());
  EXPECT_THAT(Later(absl::Seconds(1)), ElementsAre("stop worker"));
  // One that does not leave is killed.
  EXPECT_THAT(Later(absl::Seconds(60)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), IsEmpty());
}

TEST_F(SchedulerTest, DrainLetsTheRunningJobLeaveAndThenEnds) {
  Run("a");
  Do(Submit{Job("b")});
  EXPECT_THAT(Do(Drain{absl::Seconds(60)}), ElementsAre("a pausing/daemon_draining", "signal a leave"));
  EXPECT_EQ(scheduler_.Waits(now_).at("b").reason, v1::DAEMON_DRAINING);
  EXPECT_THAT(Do(WorkerDone{"a", 75}), ElementsAre("a queued/daemon_draining", "stop worker"));
  EXPECT_THAT(Do(WorkerGone{"ended"}), ElementsAre("drained"));
  EXPECT_THAT(Do(Tick{}), IsEmpty());
}

TEST_F(SchedulerTest, DrainCanLeaveTheRunningJobPaused) {
  Run("a");
  Do(Drain{absl::Seconds(60), true});
  EXPECT_THAT(Do(WorkerDone{"a", 75}), ElementsAre("a paused/daemon_draining", "stop worker"));
}

TEST_F(SchedulerTest, DrainOfAnEmptyDaemonEndsAtOnce) {
  EXPECT_THAT(Do(Drain{absl::Seconds(60)}), ElementsAre("drained"));
}

TEST_F(SchedulerTest, DrainWithoutAnAnswerKillsAndQueues) {
  Run("a");
  Do(Drain{absl::Seconds(10)});
  EXPECT_THAT(Later(absl::Seconds(10)), ElementsAre("kill worker"));
  EXPECT_THAT(Do(WorkerGone{"killed"}), ElementsAre("a queued/daemon_draining", "drained"));
}

TEST_F(SchedulerTest, BootPutsInterruptedJobsBack) {
  std::vector<JobEntry> jobs;
  for (const auto& [name, state] :
       {std::pair{"run", v1::RUNNING}, std::pair{"prep", v1::PREPARING}, std::pair{"fin", v1::FINALIZING},
        std::pair{"pausing", v1::PAUSING}, std::pair{"cancelling", v1::CANCELLING},
        std::pair{"queued", v1::QUEUED}, std::pair{"paused", v1::PAUSED}}) {
    JobEntry job = Job(name);
    job.state = state;
    job.reason = v1::USER_REQUESTED;
    jobs.push_back(job);
  }
  EXPECT_THAT(Show(scheduler_.Boot(jobs, now_)),
              ElementsAre("cancelling cancelled/user_requested", "fin queued/daemon_restarted",
                          "pausing paused/user_requested", "prep queued/daemon_restarted",
                          "run queued/daemon_restarted"));
  scheduler_.Commit();
  EXPECT_EQ(scheduler_.Waits(now_).at("queued").position, 4) << "interrupted jobs go first";
}

TEST_F(SchedulerTest, BootQueuesWhatADrainHadPaused) {
  JobEntry job = Job("a");
  job.state = v1::PAUSING;
  job.reason = v1::DAEMON_DRAINING;
  EXPECT_THAT(Show(scheduler_.Boot({job}, now_)), ElementsAre("a queued/daemon_restarted"));
}

TEST_F(SchedulerTest, RetriedJobRunsAgain) {
  JobEntry job = Job("a");
  job.state = v1::FAILED;
  EXPECT_THAT(Do(RetryJob{job}), ElementsAre("a queued/user_requested", "a preparing", "start worker"));
  JobEntry done = Job("b");
  done.state = v1::SUCCEEDED;
  EXPECT_THAT(Do(RetryJob{done}), ElementsAre(HasSubstr("error: cannot retry")));
  EXPECT_EQ(scheduler_.Find("b"), nullptr) << "a refused input changes nothing";
}

TEST_F(SchedulerTest, RollbackRestoresEverything) {
  Run("a");
  Do(Submit{Job("b")});
  ASSERT_TRUE(scheduler_.Step(WorkerDone{"a", 0}, now_).ok());
  EXPECT_EQ(scheduler_.holder(), "b");
  scheduler_.Rollback();
  EXPECT_EQ(scheduler_.holder(), "a");
  EXPECT_EQ(scheduler_.Find("a")->state, v1::RUNNING);
  EXPECT_EQ(scheduler_.Find("b")->state, v1::QUEUED);
  // The same input again gives the same.
  EXPECT_THAT(Do(WorkerDone{"a", 0}), ElementsAre("a succeeded", "b preparing", "run b"));
}

TEST_F(SchedulerTest, LateWordsOfAnOldRunAreIgnored) {
  Run("a");
  Ask("a", JobEvent::kCancel);
  Do(WorkerDone{"a", 79});
  EXPECT_THAT(Do(WorkerDone{"a", 0}), IsEmpty());
  EXPECT_THAT(Do(WorkerPhase{"a", "exporting"}), IsEmpty());
}

TEST_F(SchedulerTest, PrestartedWorkerWaitsForJobs) {
  EXPECT_THAT(Do(Prestart{}), ElementsAre("start worker"));
  EXPECT_THAT(Do(WorkerReady{}), IsEmpty());
  EXPECT_THAT(Do(Submit{Job("a")}), ElementsAre("a preparing", "run a"));
}

TEST_F(SchedulerTest, FailedPrestartIsNotRepeated) {
  Do(Prestart{});
  EXPECT_THAT(Do(WorkerGone{"cannot be started"}), IsEmpty());
  EXPECT_THAT(Later(absl::Hours(1)), IsEmpty());
}

}  // namespace
}  // namespace finetuned::queue
