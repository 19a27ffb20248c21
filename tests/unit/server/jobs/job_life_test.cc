// Whole lives of jobs: manager, store, supervisor and a worker process.
#include <signal.h>
#include <sys/resource.h>

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>

#include "tests/unit/server/jobs/manager_fixture.h"

namespace finetuned::jobs {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using JobLife = ManagerTest;

TEST_F(JobLife, GoodJobEndsWithAnAdapter) {
  Create("finish-1");
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED)) << Get("finish-1").ShortDebugString();
  EXPECT_EQ(States("finish-1"), "queued preparing running finalizing succeeded");
  const v1::Job job = Get("finish-1");
  EXPECT_EQ(job.attempt(), 1);
  ASSERT_EQ(job.attempts_size(), 1);
  EXPECT_EQ(job.attempts(0).end_step(), 6);
  EXPECT_EQ(job.progress().step(), 6);
  EXPECT_EQ(job.progress().total_steps(), 6);
  EXPECT_EQ(job.progress().tokens(), 600);
  EXPECT_TRUE(job.has_end_time());
  EXPECT_EQ(job.output_adapter(), "adapters/finish-1");

  const auto adapter = store_->GetAdapter("adapters/finish-1");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  ASSERT_EQ(adapter->adapter.files_size(), 2);
  EXPECT_EQ(adapter->adapter.files(1).file(), "adapter_model.safetensors");
  // sha256 of "weights of jobs/finish-1"
  EXPECT_EQ(adapter->adapter.sha256(), "a1300020bd5a6d39c42e19db865fab06fa62f4da160555f9cc46207d9e15a16a");
  EXPECT_TRUE(std::filesystem::exists(adapter->directory + "/adapter_model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(store_->layout().JobDir(job.uid()) + "/adapter"));
  // Rows of checkpoints follow what the worker kept.
  const auto checkpoints = store_->ListCheckpoints(job.uid());
  ASSERT_EQ(checkpoints->size(), 1u);
  EXPECT_EQ((*checkpoints)[0].checkpoint.step(), 6);
}

TEST_F(JobLife, JobsRunOneAfterAnotherOnOneWorker) {
  for (const char* id : {"finish-1", "finish-2", "finish-3"}) Create(id);
  ASSERT_TRUE(WaitState("finish-3", v1::SUCCEEDED));
  EXPECT_EQ(Get("finish-1").state(), v1::SUCCEEDED);
  EXPECT_LE(Get("finish-1").end_time().seconds(), Get("finish-2").start_time().seconds() + 1);
  EXPECT_EQ(manager_->Worker().state, queue::WorkerState::kIdle);
  EXPECT_EQ(manager_->Worker().hello->device(), "cpu");
  EXPECT_TRUE(manager_->Worker().hello->token().empty());
}

TEST_F(JobLife, CrashedJobResumesFromItsCheckpoint) {
  Create("crashonce-1");
  ASSERT_TRUE(WaitState("crashonce-1", v1::SUCCEEDED)) << Get("crashonce-1").ShortDebugString();
  EXPECT_EQ(States("crashonce-1"),
            "queued preparing running queued preparing running finalizing succeeded");
  const v1::Job job = Get("crashonce-1");
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_EQ(job.attempts(0).end_reason(), v1::WORKER_CRASHED);
  EXPECT_EQ(job.attempts(0).end_step(), 3);
  EXPECT_EQ(job.attempts(1).start_step(), 2);
  // Step 3 was done twice: the newer one counts.
  const auto samples = store_->QueryMetrics(job.uid(), 0, 0);
  ASSERT_EQ(samples->size(), 6u);
  EXPECT_EQ((*samples)[1].attempt, 1);
  EXPECT_EQ((*samples)[2].attempt, 2);
}

TEST_F(JobLife, ThirdCrashFailsTheJobWithTheWorkersLastWords) {
  config_.worker.max_crashes = 2;
  Close();
  Open();
  Create("crash-1");
  ASSERT_TRUE(WaitState("crash-1", v1::FAILED));
  const v1::Job job = Get("crash-1");
  EXPECT_EQ(job.state_reason(), v1::WORKER_CRASHED);
  EXPECT_EQ(job.error().message(), "the worker was killed by signal 11 (Segmentation fault) (2 times)");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(job.error().details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "WORKER_CRASHED");
  int logs = 0;
  for (const v1::Event& event : Events("crash-1")) {
    if (!event.has_log()) continue;
    ++logs;
    EXPECT_THAT(event.log().text(), HasSubstr("illegal memory access"));
  }
  EXPECT_EQ(logs, 2);
  // Tried again by a person it starts to count anew.
  v1::RetryJobRequest retry;
  retry.set_name("jobs/crash-1");
  ASSERT_TRUE(manager_->RetryJob(retry, caller_).ok());
  ASSERT_TRUE(Wait([&] { return Get("crash-1").attempt() == 4; }));
}

TEST_F(JobLife, HangingWorkerIsKilledAndTheJobTriedAgain) {
  config_.worker.max_crashes = 1;
  config_.worker.heartbeat_timeout = absl::Milliseconds(1500);
  Close();
  Open();
  Create("hang-1");
  ASSERT_TRUE(WaitState("hang-1", v1::FAILED));
  EXPECT_EQ(Get("hang-1").state_reason(), v1::WORKER_STALLED);
  EXPECT_THAT(Get("hang-1").state_message(), HasSubstr("no sign of life"));
}

TEST_F(JobLife, XidOfTheDriverIsToldAndALostGpuEndsTheAttempt) {
  metrics::GpuReading gpu;
  gpu.xid_errors = {{31, 1}, {79, 0}};
  metrics_->Gpus({gpu}, absl::Now());
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  gpu.xid_errors[79] = 1;
  metrics_->Gpus({gpu}, absl::Now());
  ASSERT_TRUE(Wait([&] { return Get("slow-1").attempt() == 2; }));
  const v1::Job job = Get("slow-1");
  EXPECT_EQ(job.attempts(0).end_reason(), v1::GPU_XID_ERROR);
  int warnings = 0;
  for (const v1::Event& event : Events("slow-1")) {
    if (!event.has_warning()) continue;
    ++warnings;
    EXPECT_THAT(event.warning().text(), HasSubstr("XID 79"));
  }
  EXPECT_EQ(warnings, 1) << "XID 31 was there before";
}

TEST_F(JobLife, BadDataFailsAtOnce) {
  Create("refuse-1");
  ASSERT_TRUE(WaitState("refuse-1", v1::FAILED));
  EXPECT_EQ(Get("refuse-1").state_reason(), v1::INVALID_DATASET);
  EXPECT_EQ(Get("refuse-1").state_message(), "line 3: no messages");
  EXPECT_EQ(Get("refuse-1").attempt(), 1);
}

// The worker's codes are finer than the reasons of a state; whose fault it is stays.
TEST_F(JobLife, WhatIsWrongWithTheJobIsNoInternalError) {
  Create("unfit-1");
  ASSERT_TRUE(WaitState("unfit-1", v1::FAILED));
  EXPECT_EQ(Get("unfit-1").state_reason(), v1::INVALID_CONFIGURATION);
  EXPECT_EQ(Get("unfit-1").state_message(), "no completion got a score");
}

TEST_F(JobLife, MissingWorkerIsNamed) {
  config_.worker.binary = "/no/such/finetune-worker";
  config_.worker.max_crashes = 1;
  Close();
  Open();
  Create("finish-1");
  ASSERT_TRUE(WaitState("finish-1", v1::FAILED));
  EXPECT_THAT(Get("finish-1").state_message(),
              StartsWith("the worker cannot be started: finetune-worker: No such file"));
}

TEST_F(JobLife, UnknownModelFailsBeforeTheWorkerSeesIt) {
  v1::Job job = Spec();
  job.mutable_resolved_spec()->set_base_model("models/gone");
  ASSERT_TRUE(manager_->CreateJob(job, "finish-1", caller_).ok());
  ASSERT_TRUE(WaitState("finish-1", v1::FAILED));
  EXPECT_EQ(Get("finish-1").state_reason(), v1::INVALID_CONFIGURATION);
}

TEST_F(JobLife, CancelEndsARunningJob) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/slow-1");
  cancel.set_reason("wrong data");
  ASSERT_TRUE(manager_->CancelJob(cancel, caller_).ok());
  ASSERT_TRUE(WaitState("slow-1", v1::CANCELLED));
  EXPECT_EQ(States("slow-1"), "queued preparing running cancelling cancelled");
  EXPECT_EQ(Get("slow-1").state_message(), "wrong data");
}

TEST_F(JobLife, WorkerThatDoesNotObeyIsKilled) {
  Create("stubborn-1");
  ASSERT_TRUE(WaitStep("stubborn-1", 3));
  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/stubborn-1");
  ASSERT_TRUE(manager_->CancelJob(cancel, caller_).ok());
  ASSERT_TRUE(WaitState("stubborn-1", v1::CANCELLED));
  Create("finish-1");
  EXPECT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
}

TEST_F(JobLife, PausedJobGivesUpTheDeviceAndGoesOnLater) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  Create("finish-1");
  v1::PauseJobRequest pause;
  pause.set_name("jobs/slow-1");
  ASSERT_TRUE(manager_->PauseJob(pause, caller_).ok());
  ASSERT_TRUE(WaitState("slow-1", v1::PAUSED));
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
  const int64_t step = Get("slow-1").progress().step();
  v1::ResumeJobRequest resume;
  resume.set_name("jobs/slow-1");
  ASSERT_TRUE(manager_->ResumeJob(resume, caller_).ok());
  ASSERT_TRUE(WaitStep("slow-1", step + 2));
  EXPECT_GE(Get("slow-1").attempts(1).start_step(), step);
}

TEST_F(JobLife, PreemptedJobGivesWayAndGoesOnAfterwards) {
  v1::Job mild = Spec();
  mild.mutable_scheduling()->set_preemptible(true);
  ASSERT_TRUE(manager_->CreateJob(mild, "slow-1", caller_).ok());
  ASSERT_TRUE(WaitStep("slow-1", 3));
  v1::Job urgent = Spec();
  urgent.mutable_scheduling()->set_priority(1);
  ASSERT_TRUE(manager_->CreateJob(urgent, "finish-1", caller_).ok());
  ASSERT_TRUE(WaitState("finish-1", v1::SUCCEEDED));
  ASSERT_TRUE(Wait([&] { return Get("slow-1").attempt() == 2 && Get("slow-1").state() == v1::RUNNING; }));
  EXPECT_EQ(States("slow-1"), "queued preparing running pausing queued preparing running");
  const v1::Job job = Get("slow-1");
  EXPECT_EQ(job.attempts(0).end_reason(), v1::PREEMPTED);
  EXPECT_GE(job.attempts(1).start_step(), 3) << "from its checkpoint";
  EXPECT_THAT(metrics_->Text(), HasSubstr("finetuned_job_preemptions_total 1"));
  EXPECT_THAT(metrics_->Text(), HasSubstr("finetuned_job_attempts_total{cause=\"preemption\"} 1"));
}

TEST_F(JobLife, QueuedJobsTellWhenTheyMightStart) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 5));
  v1::Job known = Spec();
  known.mutable_progress()->mutable_remaining()->set_seconds(100);
  ASSERT_TRUE(manager_->CreateJob(known, "finish-1", caller_).ok());
  Create("finish-2");
  Create("finish-3");
  ASSERT_TRUE(Wait([&] { return Get("finish-2").progress().has_estimated_start_time(); }));
  const int64_t first = Get("finish-1").progress().estimated_start_time().seconds();
  const int64_t second = Get("finish-2").progress().estimated_start_time().seconds();
  EXPECT_NEAR(static_cast<double>(second - first), 100, 10);
  EXPECT_FALSE(Get("finish-3").progress().has_estimated_start_time()) << "nobody knows how long finish-2 takes";
}

TEST_F(JobLife, StopDeliversWhatThereIs) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  v1::StopJobRequest stop;
  stop.set_name("jobs/slow-1");
  ASSERT_TRUE(manager_->StopJob(stop, caller_).ok());
  ASSERT_TRUE(WaitState("slow-1", v1::SUCCEEDED));
  EXPECT_LT(Get("slow-1").progress().step(), 2000);
  EXPECT_TRUE(store_->GetAdapter("adapters/slow-1").ok());
}

TEST_F(JobLife, CheckpointIsWrittenOnRequest) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  v1::CheckpointJobRequest request;
  request.set_name("jobs/slow-1");
  EXPECT_TRUE(manager_->CheckpointJob(request, caller_).ok());
  EXPECT_EQ(Get("slow-1").state(), v1::RUNNING);
}

TEST_F(JobLife, DrainQueuesTheRunningJobAndTheNextDaemonGoesOn) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 5));
  manager_->Drain(absl::Seconds(10), false);
  ASSERT_TRUE(Wait([&] { return drained_.load(); }));
  EXPECT_FALSE(manager_->accepting());
  EXPECT_TRUE(absl::IsUnavailable(manager_->CreateJob(Spec(), "late-1", caller_).status()));
  EXPECT_EQ(Get("slow-1").state(), v1::QUEUED);
  EXPECT_EQ(Get("slow-1").state_reason(), v1::DAEMON_DRAINING);
  const int64_t step = Get("slow-1").progress().step();
  Close();
  Open();
  ASSERT_TRUE(WaitStep("slow-1", step + 3));
  EXPECT_EQ(Get("slow-1").attempts(1).start_step(), step);
}

TEST_F(JobLife, DrainCanPause) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 3));
  manager_->Drain(absl::Seconds(10), true);
  ASSERT_TRUE(Wait([&] { return drained_.load(); }));
  EXPECT_EQ(Get("slow-1").state(), v1::PAUSED);
}

TEST_F(JobLife, DeadDaemonsJobRunsAgain) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 5));
  Close();
  Open();
  ASSERT_TRUE(Wait([&] { return Get("slow-1").attempt() == 2 && Get("slow-1").state() == v1::RUNNING; }));
  EXPECT_EQ(States("slow-1"), "queued preparing running queued preparing running");
  EXPECT_EQ(Get("slow-1").attempts(0).end_reason(), v1::DAEMON_RESTARTED);
  EXPECT_GE(Get("slow-1").attempts(1).start_step(), 4);
}

// Nothing the worker says is lost or doubled when the disk is full for a while.
TEST_F(JobLife, FullDiskOnlyDelays) {
  Create("slow-1");
  ASSERT_TRUE(WaitStep("slow-1", 5));
  signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit tight = old;
  tight.rlim_cur = 1;
  setrlimit(RLIMIT_FSIZE, &tight);
  absl::SleepFor(absl::Milliseconds(300));
  const int64_t stuck = Get("slow-1").progress().step();
  v1::StopJobRequest stop;
  stop.set_name("jobs/slow-1");
  const auto refused = manager_->StopJob(stop, caller_);
  EXPECT_TRUE(absl::IsUnavailable(refused.status()) || absl::IsResourceExhausted(refused.status()))
      << refused.status();
  EXPECT_EQ(Get("slow-1").state(), v1::RUNNING) << "a change that is not stored has not happened";
  setrlimit(RLIMIT_FSIZE, &old);
  ASSERT_TRUE(WaitStep("slow-1", stuck + 30));
  ASSERT_TRUE(manager_->StopJob(stop, caller_).ok());
  ASSERT_TRUE(WaitState("slow-1", v1::SUCCEEDED));
  States("slow-1");  // checks the sequences
  int64_t step = 0;
  for (const v1::Event& event : Events("slow-1")) {
    if (event.has_metrics()) EXPECT_EQ(event.metrics().step(), ++step);
  }
}

}  // namespace
}  // namespace finetuned::jobs
