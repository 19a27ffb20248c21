#pragma once

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fake_worker.h"
#include "finetuned/v1/adapters.grpc.pb.h"
#include "finetuned/v1/daemon.grpc.pb.h"
#include "finetuned/v1/datasets.grpc.pb.h"
#include "finetuned/v1/jobs.grpc.pb.h"
#include "finetuned/v1/rewards.grpc.pb.h"
#include "server/api/server.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

inline constexpr char kGoodRows[] =
    "{\"prompt\": \"What is 2+2?\", \"completion\": \" 4\"}\n"
    "{\"prompt\": \"What is 3+3?\", \"completion\": \" 6\"}\n"
    "{\"prompt\": \"Say hello.\", \"completion\": \" Hello!\"}\n";

// The whole daemon but the worker in this process, spoken to over its Unix socket.
class ApiTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  // Before Boot: what a test changes.
  virtual void Configure(config::Config*) {}
  virtual std::unique_ptr<FakeWorker> MakeWorker() { return std::make_unique<FakeWorker>(); }
  void Boot();
  void Halt();

  std::unique_ptr<grpc::ClientContext> Context(int seconds = 30);
  // One UploadDataset call with all of `data`.
  grpc::Status Upload(const std::string& id, const std::string& data, v1::Dataset* dataset,
                      const std::string& method = "sft");
  // A job that would be accepted; uploads datasets/rows when it is not there.
  v1::CreateJobRequest GoodJob(const std::string& job_id = "");
  v1::Job Create(const v1::CreateJobRequest& request);
  v1::Job GetJob(const std::string& name);
  // Polls until the job is in `state` (30 s).
  v1::Job WaitFor(const std::string& name, v1::JobState state);

  std::string dir_;
  config::Config config_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<metrics::Metrics> metrics_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<jobs::JobManager> manager_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Jobs::Stub> jobs_;
  std::unique_ptr<v1::Datasets::Stub> datasets_;
  std::unique_ptr<v1::Adapters::Stub> adapters_;
  std::unique_ptr<v1::Rewards::Stub> rewards_;
  std::unique_ptr<v1::Daemon::Stub> daemon_;
};

// The detail of a type; the test fails when there is none.
template <typename Detail>
Detail DetailOf(const grpc::Status& status) {
  google::rpc::Status rpc;
  rpc.ParseFromString(status.error_details());
  Detail found;
  for (const auto& detail : rpc.details()) {
    if (detail.UnpackTo(&found)) return found;
  }
  ADD_FAILURE() << "no " << Detail::descriptor()->full_name() << " in: " << status.error_message();
  return found;
}

std::string ReasonOf(const grpc::Status& status);            // of its ErrorInfo
std::vector<std::string> FieldsOf(const grpc::Status& status);  // of its BadRequest

}  // namespace finetuned::api
