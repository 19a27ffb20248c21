// Ownership (access.own_only): a caller sees and changes what is its own; the rest is as if it did not exist.
#include "two_callers.h"

#include <fstream>

#include "proto/spec/crc32c.h"

namespace finetuned::api {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Ownership : public TwoCallers {
 protected:
  void Configure(config::Config* config) override {
    TwoCallers::Configure(config);
    config->access.own_only = true;
  }
  grpc::Status UploadAs(const auth::NewToken& token, const std::string& id) {
    v1::Dataset dataset;
    auto context = As(token);
    auto writer = v1::Datasets::NewStub(Tcp())->UploadDataset(context.get(), &dataset);
    v1::UploadDatasetRequest request;
    request.set_dataset_id(id);
    request.set_method("sft");
    request.set_data(kGoodRows);
    request.set_crc32c(spec::Crc32c(request.data()));
    request.set_finish(true);
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status CreateAs(const auth::NewToken& token, const std::string& id, const std::string& dataset) {
    v1::CreateJobRequest request;
    request.set_job_id(id);
    request.mutable_job()->mutable_spec()->set_base_model("models/tiny");
    request.mutable_job()->mutable_spec()->set_dataset(dataset);
    request.mutable_job()->mutable_spec()->mutable_sft();
    v1::Job job;
    return v1::Jobs::NewStub(Tcp())->CreateJob(As(token).get(), request, &job);
  }
  template <typename Request, typename Answer>
  grpc::Status Jobs(const auth::NewToken& token, grpc::Status (v1::Jobs::Stub::*method)(grpc::ClientContext*, const Request&, Answer*),
                    const Request& request) {
    Answer answer;
    auto stub = v1::Jobs::NewStub(Tcp());
    return ((*stub).*method)(As(token).get(), request, &answer);
  }
  template <typename Request>
  static Request Named(const std::string& name) {
    Request request;
    request.set_name(name);
    return request;
  }
  template <typename Request>
  static Request Parented(const std::string& name) {
    Request request;
    request.set_parent(name);
    return request;
  }
};

void ExpectSame(const grpc::Status& anothers, const grpc::Status& missing) {
  EXPECT_EQ(anothers.error_code(), grpc::StatusCode::NOT_FOUND) << anothers.error_message();
  EXPECT_EQ(anothers.error_code(), missing.error_code());
  std::string text = missing.error_message();
  const size_t at = text.find("not-there");
  if (at != std::string::npos) text.replace(at, 9, "anns-job");
  EXPECT_EQ(anothers.error_message(), text);
}

TEST_F(Ownership, AnothersJobIsAnsweredAsOneThatDoesNotExist) {
  ASSERT_TRUE(UploadAs(ann_token_, "anns-rows").ok());
  const grpc::Status created = CreateAs(ann_token_, "anns-job", "datasets/anns-rows");
  ASSERT_TRUE(created.ok()) << created.error_message();
  using Stub = v1::Jobs::Stub;
  EXPECT_TRUE(Jobs(ann_token_, &Stub::GetJob, Named<v1::GetJobRequest>("jobs/anns-job")).ok());
  const auto both = [&](auto method, auto make) {
    ExpectSame(Jobs(bob_token_, method, make("jobs/anns-job")), Jobs(bob_token_, method, make("jobs/not-there")));
  };
  both(&Stub::GetJob, Named<v1::GetJobRequest>);
  both(&Stub::CancelJob, Named<v1::CancelJobRequest>);
  both(&Stub::PauseJob, Named<v1::PauseJobRequest>);
  both(&Stub::ResumeJob, Named<v1::ResumeJobRequest>);
  both(&Stub::RetryJob, Named<v1::RetryJobRequest>);
  both(&Stub::StopJob, Named<v1::StopJobRequest>);
  both(&Stub::CheckpointJob, Named<v1::CheckpointJobRequest>);
  both(&Stub::DeleteJob, Named<v1::DeleteJobRequest>);
  both(&Stub::ListEvents, Parented<v1::ListEventsRequest>);
  both(&Stub::QueryMetrics, Parented<v1::QueryMetricsRequest>);
  both(&Stub::ListCheckpoints, Parented<v1::ListCheckpointsRequest>);
  // Also when something else in the request is wrong, which a request about a missing job would be told first.
  const auto bad_id = [](const std::string& name) {
    auto request = Named<v1::PauseJobRequest>(name);
    request.set_request_id("two words");
    return request;
  };
  both(&Stub::PauseJob, bad_id);

  auto context = As(bob_token_);
  auto watch = v1::Jobs::NewStub(Tcp())->WatchJob(context.get(), Named<v1::WatchJobRequest>("jobs/anns-job"));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(GetJob("jobs/anns-job").owner(), "token:ann") << "the admin sees it";
}

TEST_F(Ownership, ListingsShowOnesOwn) {
  ASSERT_TRUE(UploadAs(ann_token_, "anns-rows").ok());
  ASSERT_TRUE(UploadAs(bob_token_, "bobs-rows").ok());
  ASSERT_TRUE(CreateAs(ann_token_, "anns-job", "datasets/anns-rows").ok());
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(v1::Jobs::NewStub(Tcp())->ListJobs(As(bob_token_).get(), {}, &jobs).ok());
  EXPECT_THAT(jobs.jobs(), IsEmpty());
  ASSERT_TRUE(v1::Jobs::NewStub(Tcp())->ListJobs(As(ann_token_).get(), {}, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 1);
  v1::ListDatasetsResponse datasets;
  ASSERT_TRUE(v1::Datasets::NewStub(Tcp())->ListDatasets(As(bob_token_).get(), {}, &datasets).ok());
  ASSERT_EQ(datasets.datasets_size(), 1);
  EXPECT_EQ(datasets.datasets(0).name(), "datasets/bobs-rows");
  v1::ListJobsResponse all;
  ASSERT_TRUE(jobs_->ListJobs(Context().get(), {}, &all).ok());
  EXPECT_EQ(all.jobs_size(), 1) << "the admin sees all";
}

TEST_F(Ownership, AnothersDatasetCannotBeUsedReadReplacedOrDeleted) {
  ASSERT_TRUE(UploadAs(ann_token_, "anns-rows").ok());
  EXPECT_EQ(CreateAs(bob_token_, "bobs-job", "datasets/anns-rows").error_code(), grpc::StatusCode::NOT_FOUND);
  auto stub = v1::Datasets::NewStub(Tcp());
  v1::Dataset dataset;
  EXPECT_EQ(stub->GetDataset(As(bob_token_).get(), Named<v1::GetDatasetRequest>("datasets/anns-rows"), &dataset).error_code(),
            grpc::StatusCode::NOT_FOUND);
  google::protobuf::Empty empty;
  EXPECT_EQ(
      stub->DeleteDataset(As(bob_token_).get(), Named<v1::DeleteDatasetRequest>("datasets/anns-rows"), &empty).error_code(),
      grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(UploadAs(bob_token_, "anns-rows").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  v1::GetUploadStatusRequest status_request;
  status_request.set_dataset_id("anns-rows");
  v1::UploadStatus status;
  EXPECT_EQ(stub->GetUploadStatus(As(bob_token_).get(), status_request, &status).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(stub->GetUploadStatus(As(ann_token_).get(), status_request, &status).ok());
}

TEST_F(Ownership, TheDaemonItselfIsForAdmins) {
  v1::ServerInfo info;
  const grpc::Status drained = v1::Daemon::NewStub(Tcp())->DrainServer(As(bob_token_).get(), {}, &info);
  EXPECT_EQ(drained.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(manager_->accepting());
  EXPECT_TRUE(v1::Daemon::NewStub(Tcp())->GetServerInfo(As(bob_token_).get(), {}, &info).ok());
}

// Quotas count per principal, whatever it may see.
class Quotas : public Ownership {
 protected:
  void Configure(config::Config* config) override {
    Ownership::Configure(config);
    config->quotas.max_queued_jobs = 1;
    config->quotas.max_storage_bytes = 400;  // two copies of the good rows, not three
  }
};

TEST_F(Quotas, QueuedJobsAndStorageAreCountedByPrincipal) {
  ASSERT_TRUE(UploadAs(ann_token_, "first-rows").ok());
  ASSERT_TRUE(UploadAs(ann_token_, "second-rows").ok());
  const grpc::Status full = UploadAs(ann_token_, "third-rows");
  EXPECT_EQ(full.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << full.error_message();
  EXPECT_EQ(ReasonOf(full), "QUOTA_STORAGE");
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(full).violations(0).subject(), "token:ann");
  EXPECT_TRUE(UploadAs(bob_token_, "bobs-rows").ok());

  ASSERT_TRUE(CreateAs(ann_token_, "runs-now", "datasets/first-rows").ok());
  worker_->WaitForRun();
  ASSERT_TRUE(CreateAs(ann_token_, "waits", "datasets/first-rows").ok());
  const grpc::Status refused = CreateAs(ann_token_, "too-many", "datasets/first-rows");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(refused), "QUOTA_QUEUED_JOBS");
  EXPECT_THAT(refused.error_message(), HasSubstr("quotas.max_queued_jobs"));
  EXPECT_TRUE(CreateAs(bob_token_, "bobs-job", "datasets/bobs-rows").ok()) << "another's queue is not touched";
}

}  // namespace
}  // namespace finetuned::api
