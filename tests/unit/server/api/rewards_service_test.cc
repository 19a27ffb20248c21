// Rewards over the daemon's socket: trials, reward workers, and jobs that wait for one.
#include <cmath>
#include <thread>

#include "api_testing.h"

namespace finetuned::api {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Attached = grpc::ClientReaderWriter<v1::RewardWorkerMessage, v1::RewardDispatch>;

// A notebook that serves rewards.
class RewardClient {
 public:
  RewardClient(v1::Rewards::Stub* stub, const std::string& job, const std::vector<std::string>& names,
               int credits) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub->AttachRewardWorker(&context_);
    v1::RewardWorkerMessage message;
    message.mutable_hello()->set_worker_id("notebook");
    message.mutable_hello()->set_job(job);
    for (const std::string& name : names) message.mutable_hello()->add_reward_names(name);
    stream_->Write(message);
    if (credits > 0) Credit(credits);
  }
  ~RewardClient() {
    if (stream_ != nullptr) Kill();
  }
  void Credit(int batches) {
    v1::RewardWorkerMessage message;
    message.mutable_credit()->set_batches(batches);
    stream_->Write(message);
  }
  v1::RewardDispatch Read() {
    v1::RewardDispatch dispatch;
    EXPECT_TRUE(stream_->Read(&dispatch)) << "the stream ended";
    return dispatch;
  }
  // Scores the batch with 0.5, 1.5, ...
  void Score(const v1::RewardBatch& batch, const std::string& name) {
    v1::RewardWorkerMessage message;
    message.mutable_result()->set_batch_id(batch.batch_id());
    message.mutable_result()->set_lease_epoch(batch.lease_epoch());
    v1::RewardScores* scores = message.mutable_result()->add_scores();
    scores->set_reward_name(name);
    for (int i = 0; i < batch.items_size(); ++i) scores->add_values(i + 0.5);
    stream_->Write(message);
  }
  // The notebook's process is gone.
  void Kill() {
    context_.TryCancel();
    stream_->Finish();
    stream_ = nullptr;
  }
  grpc::Status Finish() {
    stream_->WritesDone();
    grpc::Status status = stream_->Finish();
    stream_ = nullptr;
    return status;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<Attached> stream_;
};

class RewardsApi : public ApiTest {
 protected:
  // A running GRPO job whose completions are scored outside; `grace`: without a worker, in seconds.
  v1::Job RunningJob(int grace, const std::string& id = "grpo") {
    const v1::CreateJobRequest good = GoodJob();  // uploads the rows
    v1::Job job = good.job();
    v1::RemoteReward* remote = job.mutable_spec()->mutable_grpo()->mutable_remote_reward();
    remote->add_reward_names("mine");
    remote->mutable_batch_timeout()->set_seconds(30);
    remote->mutable_worker_grace()->set_seconds(grace);
    remote->set_max_attempts(3);
    *job.mutable_resolved_spec() = job.spec();
    const auto made = manager_->CreateJob(job, id, {"test", "", ""});
    EXPECT_TRUE(made.ok()) << made.status();
    worker_->Phase("training");
    return WaitFor("jobs/" + id, v1::RUNNING);
  }
  bool WaitForWorkers(size_t count) {
    for (int i = 0; i < 500; ++i) {
      if (manager_->rewards().workers() == count) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  grpc::Status Try(const v1::EvaluateRewardRequest& request, v1::EvaluateRewardResponse* response) {
    auto context = Context();
    return rewards_->EvaluateReward(context.get(), request, response);
  }
};

TEST_F(RewardsApi, BuiltInRewardsCanBeTried) {
  v1::EvaluateRewardRequest request;
  request.mutable_builtin()->set_name("numeric");
  for (const char* text : {"It is 4.", "5", "?"}) {
    v1::RewardItem* item = request.add_items();
    item->set_completion(text);
    if (*text != '?') (*item->mutable_columns())["answer"] = "4";
  }
  v1::EvaluateRewardResponse response;
  ASSERT_TRUE(Try(request, &response).ok());
  ASSERT_EQ(response.values_size(), 3);
  EXPECT_EQ(response.values(0), 1);
  EXPECT_EQ(response.values(1), 0);
  EXPECT_TRUE(std::isnan(response.values(2)));
  EXPECT_EQ(response.errors(0).code(), 0);
  EXPECT_THAT(response.errors(2).message(), HasSubstr("no column \"answer\""));
  EXPECT_TRUE(response.has_latency());
}

TEST_F(RewardsApi, TrialsSayWhatIsWrong) {
  v1::EvaluateRewardRequest request;
  v1::EvaluateRewardResponse response;
  EXPECT_THAT(FieldsOf(Try(request, &response)), ElementsAre("items"));
  request.add_items();
  EXPECT_THAT(FieldsOf(Try(request, &response)), ElementsAre("reward"));
  request.mutable_builtin()->set_name("numerc");
  EXPECT_THAT(Try(request, &response).error_message(), HasSubstr("did you mean numeric?"));
  request.set_remote("mine");
  const grpc::Status nobody = Try(request, &response);
  EXPECT_EQ(nobody.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(nobody.error_message(), HasSubstr("no attached reward worker serves \"mine\""));
}

TEST_F(RewardsApi, AnAttachedRewardCanBeTriedBeforeAnyJobExists) {
  RewardClient notebook(rewards_.get(), "", {"mine"}, 1);
  ASSERT_TRUE(WaitForWorkers(1));
  std::thread scorer([&] { notebook.Score(notebook.Read().batch(), "mine"); });
  v1::EvaluateRewardRequest request;
  request.set_remote("mine");
  request.add_items()->set_completion("a");
  request.add_items()->set_completion("b");
  v1::EvaluateRewardResponse response;
  const grpc::Status status = Try(request, &response);
  scorer.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.values(), ElementsAre(0.5, 1.5));
}

TEST_F(RewardsApi, CompletionsTravelToTheNotebookAndScoresBack) {
  RunningJob(30);
  RewardClient notebook(rewards_.get(), "jobs/grpo", {"mine", "another"}, 1);
  worker_->Ask("r1-g0", 2);
  const v1::RewardDispatch dispatch = notebook.Read();
  ASSERT_TRUE(dispatch.has_batch());
  EXPECT_EQ(dispatch.batch().lease_epoch(), 1);
  EXPECT_EQ(dispatch.batch().items(1).completion(), "1");
  notebook.Score(dispatch.batch(), "mine");
  const internal::v1::RewardAnswer answer = worker_->WaitForAnswer();
  EXPECT_EQ(answer.batch_id(), "r1-g0");
  EXPECT_FALSE(answer.has_error());
  ASSERT_EQ(answer.scores_size(), 1);
  EXPECT_THAT(answer.scores(0).values(), ElementsAre(0.5, 1.5));
  EXPECT_THAT(metrics_->Text(), HasSubstr("finetuned_reward_batches_total{result=\"ok\"} 1"));
}

TEST_F(RewardsApi, ADeadNotebooksBatchGoesToTheNext) {
  RunningJob(30);
  RewardClient first(rewards_.get(), "jobs/grpo", {"mine"}, 1);
  worker_->Ask("r1-g0", 1);
  EXPECT_EQ(first.Read().batch().lease_epoch(), 1);
  first.Kill();
  RewardClient second(rewards_.get(), "jobs/grpo", {"mine"}, 1);
  const v1::RewardBatch again = second.Read().batch();
  EXPECT_EQ(again.lease_epoch(), 2);
  second.Score(again, "mine");
  EXPECT_EQ(worker_->WaitForAnswer().scores_size(), 1);
}

TEST_F(RewardsApi, ALostNotebookPausesTheJobAndItsReturnQueuesIt) {
  const v1::Job job = RunningJob(1);
  worker_->Ask("r1-g0", 1);  // nobody is attached
  const v1::Job paused = WaitFor(job.name(), v1::PAUSED);
  EXPECT_EQ(paused.state_reason(), v1::WAITING_FOR_REWARD_WORKER);
  EXPECT_THAT(paused.state_message(), HasSubstr("no reward worker was attached for 1s"));
  // The device is free: another job runs meanwhile.
  Create(GoodJob("between"));
  worker_->RunToTheEnd(1);
  WaitFor("jobs/between", v1::SUCCEEDED);
  EXPECT_EQ(GetJob(job.name()).state(), v1::PAUSED);

  RewardClient notebook(rewards_.get(), job.name(), {"mine"}, 1);
  EXPECT_EQ(worker_->WaitForRun().job(), job.name());
  worker_->Phase("training");
  WaitFor(job.name(), v1::RUNNING);
  worker_->Ask("r1-g0", 1);
  notebook.Score(notebook.Read().batch(), "mine");
  EXPECT_EQ(worker_->WaitForAnswer().scores_size(), 1);
  EXPECT_EQ(GetJob(job.name()).attempt(), 2);
}

TEST_F(RewardsApi, AJobPausedForRewardsSurvivesARestart) {
  const v1::Job job = RunningJob(1);
  worker_->Ask("r1-g0", 1);
  WaitFor(job.name(), v1::PAUSED);
  Halt();
  Boot();
  EXPECT_EQ(GetJob(job.name()).state_reason(), v1::WAITING_FOR_REWARD_WORKER);
  RewardClient notebook(rewards_.get(), "", {"mine"}, 1);  // for any job
  EXPECT_EQ(worker_->WaitForRun().job(), job.name());
}

TEST_F(RewardsApi, AJobThatLeavesTakesItsBatchesBack) {
  const v1::Job job = RunningJob(30);
  RewardClient notebook(rewards_.get(), job.name(), {"mine"}, 1);
  worker_->Ask("r1-g0", 1);
  const v1::RewardBatch batch = notebook.Read().batch();
  worker_->Finish(0);
  const v1::RewardDispatch revoked = notebook.Read();
  ASSERT_TRUE(revoked.has_revoke());
  EXPECT_EQ(revoked.revoke().batch_id(), batch.batch_id());
  // The job has ended, and with it what this worker is for.
  EXPECT_TRUE(notebook.Finish().ok());
  RewardClient late(rewards_.get(), job.name(), {"mine"}, 1);
  EXPECT_TRUE(late.Finish().ok());
}

TEST_F(RewardsApi, AWorkerThatDoesNotFitIsToldWhy) {
  RunningJob(30);
  const auto refused = [&](const std::string& job, const std::vector<std::string>& names) {
    RewardClient notebook(rewards_.get(), job, names, 0);
    return notebook.Finish();
  };
  EXPECT_EQ(refused("jobs/none", {"mine"}).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(refused("jobs/grpo", {"mines"}).error_message(),
              HasSubstr("jobs/grpo needs the reward \"mine\"; this worker serves mines; is mines meant?"));
  EXPECT_THAT(refused("", {}).error_message(), HasSubstr("reward_names: is empty"));
  worker_->Phase("exporting");
  worker_->Finish(0);
  Create(GoodJob("sft"));
  worker_->Phase("training");
  EXPECT_THAT(refused("jobs/sft", {"mine"}).error_message(), HasSubstr("computes no rewards outside"));
}

TEST_F(RewardsApi, AGrpoJobIsCheckedBeforeItWaits) {
  v1::Dataset dataset;
  ASSERT_TRUE(Upload("questions", "{\"question\": \"2+2?\", \"answer\": \"4\"}\n", &dataset, "grpo").ok());
  v1::CreateJobRequest request;
  v1::JobSpec* spec = request.mutable_job()->mutable_spec();
  spec->set_base_model("models/tiny");
  spec->set_dataset("datasets/questions");
  spec->mutable_schedule()->set_max_seq_length(64);
  v1::GrpoSpec* grpo = spec->mutable_grpo();
  grpo->set_max_completion_tokens(8);
  const auto refused = [&] {
    v1::Job job;
    auto context = Context();
    return jobs_->CreateJob(context.get(), request, &job);
  };
  EXPECT_THAT(refused().error_message(), HasSubstr("at least one reward is required"));
  v1::BuiltinReward* reward = grpo->add_builtin_rewards();
  reward->set_name("numerc");
  EXPECT_THAT(FieldsOf(refused()), ElementsAre("job.spec.grpo.builtin_rewards[0].name"));
  EXPECT_THAT(refused().error_message(), HasSubstr("did you mean numeric?"));
  reward->set_name("numeric");
  (*reward->mutable_args())["colum"] = "answer";
  EXPECT_THAT(refused().error_message(), HasSubstr("did you mean column?"));
  reward->mutable_args()->clear();
  (*reward->mutable_args())["column"] = "solution";
  EXPECT_THAT(refused().error_message(), HasSubstr("line 1, field solution: is missing"));
  (*reward->mutable_args())["column"] = "answer";
  grpo->set_entropy_coef(0.01);

  const v1::Job job = Create(request);
  const v1::JobSpec& resolved = job.resolved_spec();
  EXPECT_TRUE(resolved.has_grpo()) << "not turned into another method by a default";
  EXPECT_EQ(resolved.grpo().group_size(), 8);
  EXPECT_EQ(resolved.schedule().micro_batch_size() * resolved.schedule().gradient_accumulation_steps() % 8, 0);
  EXPECT_EQ(resolved.grpo().clip_high(), 0.2);
  EXPECT_EQ(resolved.optimizer().learning_rate(), 1e-6);
  EXPECT_GT(job.memory().kv_cache_bytes(), 0) << "the plan holds the cache beside the step";
}

}  // namespace
}  // namespace finetuned::api
