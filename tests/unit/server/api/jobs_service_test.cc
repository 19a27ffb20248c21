#include "server/api/jobs_service.h"

#include "api_testing.h"

namespace finetuned::api {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JobsApi : public ApiTest {
 protected:
  grpc::Status TryCreate(const v1::CreateJobRequest& request, v1::Job* job = nullptr) {
    v1::Job ignored;
    auto context = Context();
    return jobs_->CreateJob(context.get(), request, job != nullptr ? job : &ignored);
  }
  template <typename Request>
  grpc::Status Do(grpc::Status (v1::Jobs::Stub::*method)(grpc::ClientContext*, const Request&, v1::Job*),
                  const Request& request, v1::Job* job = nullptr) {
    v1::Job ignored;
    auto context = Context();
    return (jobs_.get()->*method)(context.get(), request, job != nullptr ? job : &ignored);
  }
  grpc::Status List(const v1::ListJobsRequest& request, v1::ListJobsResponse* response) {
    auto context = Context();
    return jobs_->ListJobs(context.get(), request, response);
  }
};

TEST_F(JobsApi, CreateJobResolvesPlansAndQueues) {
  auto request = GoodJob("first-run");
  request.mutable_job()->set_display_name("A run");
  (*request.mutable_job()->mutable_labels())["team"] = "nlp";
  const v1::Job job = Create(request);
  EXPECT_EQ(job.name(), "jobs/first-run");
  EXPECT_EQ(job.uid().size(), 36u);
  EXPECT_EQ(job.display_name(), "A run");
  EXPECT_EQ(job.labels().at("team"), "nlp");
  EXPECT_EQ(job.owner(), "uid:" + std::to_string(getuid()));
  EXPECT_EQ(job.spec().lora().rank(), 0);
  EXPECT_EQ(job.resolved_spec().lora().rank(), 16);
  EXPECT_EQ(job.resolved_spec().compute().device(), "cpu");
  EXPECT_EQ(job.resolved_spec().compute().activation_checkpointing(), "off");
  EXPECT_GT(job.memory().total_bytes(), 0);
  EXPECT_FALSE(job.etag().empty());
}

TEST_F(JobsApi, ValidateOnlyKeepsNothing) {
  auto request = GoodJob();
  request.set_validate_only(true);
  v1::Job job;
  ASSERT_TRUE(TryCreate(request, &job).ok());
  EXPECT_TRUE(job.name().empty());
  EXPECT_EQ(job.resolved_spec().seed(), 42u);
  v1::ListJobsResponse all;
  ASSERT_TRUE(List({}, &all).ok());
  EXPECT_EQ(all.jobs_size(), 0);
}

TEST_F(JobsApi, RepeatedRequestIdGivesTheFirstAnswer) {
  auto request = GoodJob();
  request.set_request_id("5f0f7d2c-2f86-4a9c-bd3e-0f5f3a8b1c11");
  const v1::Job first = Create(request);
  const v1::Job second = Create(request);
  EXPECT_EQ(first.name(), second.name());
  v1::ListJobsResponse all;
  ASSERT_TRUE(List({}, &all).ok());
  EXPECT_EQ(all.jobs_size(), 1);
  request.mutable_job()->set_display_name("something else");
  EXPECT_EQ(TryCreate(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobsApi, RepeatedRequestIdSurvivesARestart) {
  auto request = GoodJob();
  request.set_request_id("again");
  const v1::Job first = Create(request);
  Halt();
  Boot();
  EXPECT_EQ(Create(request).name(), first.name());
}

TEST_F(JobsApi, WrongFieldsAreAllNamed) {
  auto request = GoodJob("Bad_Id");
  request.mutable_job()->mutable_spec()->mutable_lora()->set_rank(5000);
  request.mutable_job()->mutable_spec()->mutable_optimizer()->set_scheduler("lineer");
  request.mutable_job()->mutable_scheduling()->set_priority(1000);
  const grpc::Status status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsOf(status), ElementsAre("job_id", "job.scheduling.priority", "job.spec.lora.rank",
                                            "job.spec.optimizer.scheduler"));
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  EXPECT_THAT(bad.field_violations(3).description(), HasSubstr("did you mean linear?"));
}

TEST_F(JobsApi, PatternsThatAreNoRegularExpressionsAreNamed) {
  auto job = GoodJob();
  job.mutable_job()->mutable_spec()->mutable_quantization()->add_skip_modules("down_proj(");
  (*job.mutable_job()->mutable_spec()->mutable_lora()->mutable_rank_pattern())["*"] = 8;
  const grpc::Status status = TryCreate(job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsOf(status), ElementsAre("job.spec.quantization.skip_modules", "job.spec.lora.rank_pattern"));
}

TEST_F(JobsApi, NewTokensOfAStartAdapterAreItsOwn) {
  auto request = GoodJob();
  request.mutable_job()->mutable_spec()->mutable_lora()->add_new_tokens("<think>");
  request.mutable_job()->mutable_spec()->set_init_adapter("adapters/other");
  const grpc::Status status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsOf(status), ElementsAre("job.spec.lora.new_tokens"));
}

TEST_F(JobsApi, ModelAndDatasetMustExist) {
  auto request = GoodJob();
  request.mutable_job()->mutable_spec()->set_base_model("models/tinny");
  grpc::Status status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(FieldsOf(status), ElementsAre("job.spec.base_model"));
  request = GoodJob();
  request.mutable_job()->mutable_spec()->set_dataset("datasets/nothing");
  status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), "datasets/nothing");
  request.mutable_job()->mutable_spec()->set_dataset("../../etc/passwd");
  EXPECT_THAT(FieldsOf(TryCreate(request)), ElementsAre("job.spec.dataset"));
}

TEST_F(JobsApi, ModelPathsCannotLeaveTheirRoots) {
  for (const char* path : {"/etc/passwd", "../../../etc/passwd", "models/../../etc/passwd", "models/tiny/.."}) {
    auto request = GoodJob();
    request.mutable_job()->mutable_spec()->set_base_model(path);
    const grpc::Status status = TryCreate(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << path;
    EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr(FINETUNED_SOURCE_DIR)));
  }
}

TEST_F(JobsApi, AnInvalidDatasetIsRefused) {
  v1::Dataset dataset;
  ASSERT_TRUE(Upload("broken", "{\"prompt\": 1}\n", &dataset).ok());
  auto request = GoodJob();
  request.mutable_job()->mutable_spec()->set_dataset("datasets/broken");
  const grpc::Status status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(status), "INVALID_DATASET");
}

TEST_F(JobsApi, ATakenJobIdIsRefused) {
  Create(GoodJob("mine"));
  EXPECT_EQ(TryCreate(GoodJob("mine")).error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(JobsApi, GetJobHonoursTheReadMask) {
  const v1::Job job = Create(GoodJob());
  v1::GetJobRequest request;
  request.set_name(job.name());
  request.mutable_read_mask()->add_paths("state");
  request.mutable_read_mask()->add_paths("resolved_spec.lora.rank");
  v1::Job got;
  auto context = Context();
  ASSERT_TRUE(jobs_->GetJob(context.get(), request, &got).ok());
  EXPECT_EQ(got.name(), job.name());
  EXPECT_NE(got.state(), v1::JOB_STATE_UNSPECIFIED);
  EXPECT_EQ(got.resolved_spec().lora().rank(), 16);
  EXPECT_FALSE(got.resolved_spec().lora().has_alpha());
  EXPECT_TRUE(got.uid().empty());
  request.mutable_read_mask()->add_paths("colour");
  auto again = Context();
  EXPECT_THAT(FieldsOf(jobs_->GetJob(again.get(), request, &got)), ElementsAre("read_mask"));
}

TEST_F(JobsApi, UnknownJobsAreNotFoundAndBadNamesInvalid) {
  v1::GetJobRequest request;
  request.set_name("jobs/nothing");
  v1::Job job;
  auto context = Context();
  const grpc::Status status = jobs_->GetJob(context.get(), request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), "jobs/nothing");
  request.set_name("nothing");
  auto again = Context();
  EXPECT_THAT(FieldsOf(jobs_->GetJob(again.get(), request, &job)), ElementsAre("name"));
}

TEST_F(JobsApi, ListingPagesWithoutGapOrRepeat) {
  for (int i = 0; i < 7; ++i) {
    auto request = GoodJob("job-" + std::to_string(i));
    (*request.mutable_job()->mutable_labels())["half"] = i < 4 ? "first" : "second";
    Create(request);
  }
  v1::ListJobsRequest request;
  request.set_page_size(3);
  request.set_order_by("create_time");
  std::vector<std::string> names;
  for (int page = 0; page < 5; ++page) {
    v1::ListJobsResponse response;
    ASSERT_TRUE(List(request, &response).ok());
    for (const auto& job : response.jobs()) names.push_back(job.name());
    if (page == 0) Create(GoodJob("late"));  // a job that comes meanwhile shifts nothing
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  EXPECT_THAT(names, ElementsAre("jobs/job-0", "jobs/job-1", "jobs/job-2", "jobs/job-3", "jobs/job-4", "jobs/job-5",
                                 "jobs/job-6", "jobs/late"));
  v1::ListJobsRequest filtered;
  filtered.set_filter("labels.half = second AND method = sft");
  v1::ListJobsResponse response;
  ASSERT_TRUE(List(filtered, &response).ok());
  ASSERT_EQ(response.jobs_size(), 3);
  EXPECT_EQ(response.jobs(0).name(), "jobs/job-6");
  filtered.set_page_token(request.page_token());  // of another query
  EXPECT_THAT(FieldsOf(List(filtered, &response)), ElementsAre("page_token"));
  v1::ListJobsRequest bad;
  bad.set_filter("colour = red");
  EXPECT_THAT(FieldsOf(List(bad, &response)), ElementsAre("filter"));
  bad.set_filter("state = QUEUD");
  EXPECT_THAT(FieldsOf(List(bad, &response)), ElementsAre("filter"));
  v1::ListJobsRequest by_state;
  by_state.set_filter("state = FAILED");
  ASSERT_TRUE(List(by_state, &response).ok());
  EXPECT_EQ(response.jobs_size(), 0);
  by_state.set_filter("state != FAILED");
  ASSERT_TRUE(List(by_state, &response).ok());
  EXPECT_GT(response.jobs_size(), 0);
  bad.clear_filter();
  bad.set_order_by("colour");
  EXPECT_EQ(List(bad, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobsApi, UpdateChangesOnlyWhatTheMaskNames) {
  const v1::Job job = Create(GoodJob());
  v1::UpdateJobRequest request;
  request.mutable_job()->set_name(job.name());
  request.mutable_job()->set_display_name("new name");
  request.mutable_job()->mutable_scheduling()->set_priority(7);
  request.mutable_update_mask()->add_paths("display_name");
  v1::Job updated;
  ASSERT_TRUE(Do(&v1::Jobs::Stub::UpdateJob, request, &updated).ok());
  EXPECT_EQ(updated.display_name(), "new name");
  EXPECT_EQ(updated.scheduling().priority(), 0);
  EXPECT_NE(updated.etag(), job.etag());
  request.mutable_update_mask()->add_paths("spec");
  EXPECT_THAT(FieldsOf(Do(&v1::Jobs::Stub::UpdateJob, request)), ElementsAre("update_mask"));
  request.clear_update_mask();
  EXPECT_THAT(FieldsOf(Do(&v1::Jobs::Stub::UpdateJob, request)), ElementsAre("update_mask"));
}

TEST_F(JobsApi, AStaleEtagIsAborted) {
  const v1::Job job = Create(GoodJob());
  v1::CancelJobRequest request;
  request.set_name(job.name());
  request.set_etag("stale");
  const grpc::Status status = Do(&v1::Jobs::Stub::CancelJob, request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ReasonOf(status), "ETAG_MISMATCH");
}

TEST_F(JobsApi, CancelPauseResumeRetryAndDelete) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  worker_->Step(1, 2.0);
  WaitFor(job.name(), v1::RUNNING);
  v1::PauseJobRequest pause;
  pause.set_name(job.name());
  ASSERT_TRUE(Do(&v1::Jobs::Stub::PauseJob, pause).ok());
  WaitFor(job.name(), v1::PAUSED);
  v1::ResumeJobRequest resume;
  resume.set_name(job.name());
  ASSERT_TRUE(Do(&v1::Jobs::Stub::ResumeJob, resume).ok());
  worker_->WaitForRun();
  v1::DeleteJobRequest remove;
  remove.set_name(job.name());
  google::protobuf::Empty empty;
  auto early = Context();
  const grpc::Status running = jobs_->DeleteJob(early.get(), remove, &empty);
  EXPECT_EQ(running.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  DetailOf<google::rpc::PreconditionFailure>(running);
  v1::CancelJobRequest cancel;
  cancel.set_name(job.name());
  cancel.set_reason("no longer needed");
  ASSERT_TRUE(Do(&v1::Jobs::Stub::CancelJob, cancel).ok());
  WaitFor(job.name(), v1::CANCELLED);
  EXPECT_EQ(Do(&v1::Jobs::Stub::PauseJob, pause).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::RetryJobRequest retry;
  retry.set_name(job.name());
  retry.set_checkpoint("jobs/other/checkpoints/1");
  EXPECT_THAT(FieldsOf(Do(&v1::Jobs::Stub::RetryJob, retry)), ElementsAre("checkpoint"));
  retry.clear_checkpoint();
  ASSERT_TRUE(Do(&v1::Jobs::Stub::RetryJob, retry).ok());
  worker_->WaitForRun();
  ASSERT_TRUE(Do(&v1::Jobs::Stub::CancelJob, cancel).ok());
  WaitFor(job.name(), v1::CANCELLED);
  auto context = Context();
  ASSERT_TRUE(jobs_->DeleteJob(context.get(), remove, &empty).ok());
  v1::GetJobRequest get;
  get.set_name(job.name());
  EXPECT_EQ(Do(&v1::Jobs::Stub::GetJob, get).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(JobsApi, StopAndCheckpointNeedARunningJob) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  worker_->Step(5, 2.0);
  WaitFor(job.name(), v1::RUNNING);
  v1::CheckpointJobRequest checkpoint;
  checkpoint.set_name(job.name());
  ASSERT_TRUE(Do(&v1::Jobs::Stub::CheckpointJob, checkpoint).ok());
  v1::StopJobRequest stop;
  stop.set_name(job.name());
  ASSERT_TRUE(Do(&v1::Jobs::Stub::StopJob, stop).ok());
  const v1::Job done = WaitFor(job.name(), v1::SUCCEEDED);
  EXPECT_FALSE(done.output_adapter().empty());
  EXPECT_EQ(Do(&v1::Jobs::Stub::CheckpointJob, checkpoint).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  v1::ListCheckpointsRequest list;
  list.set_parent(job.name());
  v1::ListCheckpointsResponse checkpoints;
  auto context = Context();
  ASSERT_TRUE(jobs_->ListCheckpoints(context.get(), list, &checkpoints).ok());
  ASSERT_EQ(checkpoints.checkpoints_size(), 1);
  EXPECT_EQ(checkpoints.checkpoints(0).name(), job.name() + "/checkpoints/5");
}

TEST_F(JobsApi, PlanTellsMemoryTokensAndChoices) {
  v1::PlanJobRequest request;
  *request.mutable_job() = GoodJob().job();
  v1::JobPlan plan;
  auto context = Context();
  const grpc::Status status = jobs_->PlanJob(context.get(), request, &plan);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(plan.admissible());
  EXPECT_EQ(plan.dataset_stats().rows(), 3);
  EXPECT_GT(plan.dataset_stats().tokens(), plan.dataset_stats().trained_tokens());
  EXPECT_GT(plan.estimated_disk_bytes(), 0);
  int64_t sum = 0;
  for (const auto& item : plan.memory().items()) sum += item.bytes();
  EXPECT_EQ(sum, plan.memory().total_bytes());
  std::vector<std::string> fields;
  for (const auto& choice : plan.choices()) fields.push_back(choice.field());
  EXPECT_THAT(fields, Contains("schedule.micro_batch_size"));
  request.set_measure(true);
  auto again = Context();
  EXPECT_EQ(jobs_->PlanJob(again.get(), request, &plan).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(JobsApi, EventsAndMetricsArePagedAndThinned) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->RunToTheEnd(200);
  WaitFor(job.name(), v1::SUCCEEDED);
  v1::ListEventsRequest request;
  request.set_parent(job.name());
  request.set_page_size(64);
  int64_t expected = 1;
  for (;;) {
    v1::ListEventsResponse response;
    auto context = Context();
    ASSERT_TRUE(jobs_->ListEvents(context.get(), request, &response).ok());
    for (const auto& event : response.events()) EXPECT_EQ(event.sequence(), expected++);
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  EXPECT_GT(expected, 200);
  v1::ListEventsRequest only;
  only.set_parent(job.name());
  only.set_filter("type = checkpoint");
  v1::ListEventsResponse checkpoints;
  auto context = Context();
  ASSERT_TRUE(jobs_->ListEvents(context.get(), only, &checkpoints).ok());
  ASSERT_EQ(checkpoints.events_size(), 1);
  EXPECT_EQ(checkpoints.events(0).checkpoint().step(), 200);
  v1::QueryMetricsRequest query;
  query.set_parent(job.name());
  query.add_keys("loss");
  query.set_max_points(20);
  v1::QueryMetricsResponse metrics;
  auto query_context = Context();
  ASSERT_TRUE(jobs_->QueryMetrics(query_context.get(), query, &metrics).ok());
  ASSERT_EQ(metrics.series_size(), 1);
  EXPECT_EQ(metrics.series(0).steps_size(), 20);
  EXPECT_EQ(metrics.series(0).steps(19), 200);
  EXPECT_DOUBLE_EQ(metrics.series(0).values(0), 3.0);
  query.set_max_points(1);
  auto bad = Context();
  EXPECT_THAT(FieldsOf(jobs_->QueryMetrics(bad.get(), query, &metrics)), ElementsAre("max_points"));
}

// A card with little memory.
class SmallGpuApi : public JobsApi {
 protected:
  std::unique_ptr<FakeWorker> MakeWorker() override {
    return std::make_unique<FakeWorker>("cuda:0 NVIDIA GeForce RTX 3090", bytes_);
  }
  void WaitForDevice() {
    while (!manager_->Worker().hello.has_value()) absl::SleepFor(absl::Milliseconds(5));
  }
  int64_t bytes_ = int64_t{24} << 30;
};

TEST_F(SmallGpuApi, WhatDoesNotFitIsRefusedWithASuggestion) {
  WaitForDevice();
  auto request = GoodJob();
  request.mutable_job()->mutable_spec()->mutable_schedule()->set_micro_batch_size(4096);
  request.mutable_job()->mutable_spec()->mutable_lora()->set_rank(16);
  request.mutable_job()->mutable_spec()->mutable_compute()->set_activation_checkpointing("off");
  v1::PlanJobRequest plan_request;
  *plan_request.mutable_job() = request.job();
  v1::JobPlan plan;
  auto plan_context = Context();
  ASSERT_TRUE(jobs_->PlanJob(plan_context.get(), plan_request, &plan).ok());
  ASSERT_TRUE(plan.admissible());
  const int64_t budget = plan.memory().total_bytes() * 9 / 10;
  request.mutable_job()->mutable_scheduling()->set_vram_limit_bytes(budget);
  const grpc::Status status = TryCreate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  EXPECT_EQ(info.reason(), "VRAM_BUDGET_EXCEEDED");
  EXPECT_EQ(info.metadata().at("budget_bytes"), std::to_string(budget));
  EXPECT_EQ(info.metadata().at("predicted_bytes"), std::to_string(plan.memory().total_bytes()));
  EXPECT_FALSE(info.metadata().at("suggestion").empty());
  DetailOf<google::rpc::QuotaFailure>(status);
  plan_request.mutable_job()->mutable_scheduling()->set_vram_limit_bytes(budget);
  auto again = Context();
  ASSERT_TRUE(jobs_->PlanJob(again.get(), plan_request, &plan).ok());
  EXPECT_FALSE(plan.admissible());
  EXPECT_EQ(plan.problems_size(), 1);
  ASSERT_GT(plan.suggestions_size(), 0);
  EXPECT_LE(plan.suggestions(0).total_bytes(), budget);
  // Left to the plan, the same job fits: recompute and smaller micro-batches are chosen.
  request.mutable_job()->mutable_spec()->mutable_schedule()->clear_micro_batch_size();
  request.mutable_job()->mutable_spec()->clear_compute();
  EXPECT_TRUE(TryCreate(request).ok());
}

class ShortQueueApi : public JobsApi {
 protected:
  void Configure(config::Config* config) override { config->limits.max_queued_jobs = 2; }
};

TEST_F(ShortQueueApi, AFullQueueSaysWhenToComeBack) {
  grpc::Status status;
  for (int i = 0; i < 6 && status.ok(); ++i) {
    auto request = GoodJob();
    request.mutable_job()->mutable_scheduling()->set_hold(true);
    status = TryCreate(request);
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  DetailOf<google::rpc::RetryInfo>(status);
}

}  // namespace
}  // namespace finetuned::api
