#include "server/api/server.h"

#include <grpcpp/generic/generic_stub.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"
#include "api_testing.h"

namespace finetuned::api {
namespace {

constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

class ServerApi : public ApiTest {
 protected:
  // grpc.health.v1.Health/Check, whose messages are one field each: service = 1; status = 1 (1 serving).
  int Health(const std::string& service, std::shared_ptr<grpc::Channel> channel) {
    grpc::GenericStub stub(channel);
    std::string raw;
    if (!service.empty()) raw = std::string("\x0a") + static_cast<char>(service.size()) + service;
    grpc::Slice slice(raw);
    grpc::ByteBuffer request(&slice, 1), response;
    auto context = Context();
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(context.get(), "/grpc.health.v1.Health/Check", request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    queue.Next(&tag, &ok);
    if (!status.ok()) return -static_cast<int>(status.error_code());
    std::vector<grpc::Slice> slices;
    response.Dump(&slices);
    std::string bytes;
    for (const auto& one : slices) bytes.append(reinterpret_cast<const char*>(one.begin()), one.size());
    return bytes.size() == 2 ? bytes[1] : 0;
  }
};

TEST_F(ServerApi, ServerInfoTellsWhatAClientNeeds) {
  v1::ServerInfo info;
  auto context = Context();
  ASSERT_TRUE(daemon_->GetServerInfo(context.get(), {}, &info).ok());
  EXPECT_EQ(info.version(), "test");
  EXPECT_EQ(info.instance_id(), "instance-1");
  EXPECT_TRUE(info.accepting_jobs());
  EXPECT_EQ(info.limits().at("max_chunk_bytes"), 1 << 20);
  ASSERT_EQ(info.models_size(), 1);
  EXPECT_EQ(info.models(0).name(), "models/tiny");
  EXPECT_TRUE(info.models(0).available()) << info.models(0).problem();
  EXPECT_EQ(info.models(0).architecture(), "llama");
  EXPECT_GT(info.models(0).parameters(), 1000);
}

TEST_F(ServerApi, DrainTurnsHealthOffAndRefusesJobs) {
  EXPECT_EQ(Health("", channel_), 1);
  EXPECT_EQ(Health("finetuned.v1.Jobs", channel_), 1);
  EXPECT_EQ(Health("gpu", channel_), 2);  // the fake worker is on the CPU
  EXPECT_EQ(Health("nothing", channel_), -static_cast<int>(grpc::StatusCode::NOT_FOUND));
  const auto request = GoodJob();
  v1::ServerInfo info;
  auto context = Context();
  ASSERT_TRUE(daemon_->DrainServer(context.get(), {}, &info).ok());
  EXPECT_EQ(Health("finetuned.v1.Jobs", channel_), 2);
  EXPECT_EQ(Health("", channel_), 1);
  v1::Job job;
  auto create = Context();
  const grpc::Status status = jobs_->CreateJob(create.get(), request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  DetailOf<google::rpc::RetryInfo>(status);
}

TEST_F(ServerApi, ASecondDaemonOnTheSameSocketIsRefused) {
  const auto second =
      Server::Start({&config_, store_.get(), manager_.get(), metrics_.get(), "test", "instance-2", absl::Now()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

class TcpApi : public ServerApi {
 protected:
  void Configure(config::Config* config) override {
    const std::string file = dir_ + "/token";
    std::ofstream(file) << kToken;
    chmod(file.c_str(), 0600);
    config->tcp.address = "127.0.0.1:0";
    config->tcp.token_file = file;
  }
  grpc::Status Ask(const std::string& authorization) {
    auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->tcp_port()),
                                       grpc::InsecureChannelCredentials());
    auto stub = v1::Jobs::NewStub(channel);
    auto context = Context();
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
    v1::ListJobsResponse response;
    return stub->ListJobs(context.get(), {}, &response);
  }
};

TEST_F(TcpApi, TcpNeedsTheToken) {
  ASSERT_GT(server_->tcp_port(), 0);
  EXPECT_TRUE(Ask(std::string("Bearer ") + kToken).ok());
  EXPECT_EQ(Ask("").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Ask("Bearer wrong").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Ask(kToken).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TcpApi, StreamsNeedTheTokenToo) {
  auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->tcp_port()),
                                     grpc::InsecureChannelCredentials());
  auto context = Context();
  v1::WatchJobRequest watch;
  watch.set_name("jobs/any");
  auto reader = v1::Jobs::NewStub(channel)->WatchJob(context.get(), watch);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  auto upload_context = Context();
  v1::Dataset dataset;
  auto writer = v1::Datasets::NewStub(channel)->UploadDataset(upload_context.get(), &dataset);
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  auto download_context = Context();
  auto download = v1::Adapters::NewStub(channel)->DownloadAdapter(download_context.get(), {});
  EXPECT_EQ(download->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  auto sample_context = Context();
  auto sample = v1::Adapters::NewStub(channel)->Sample(sample_context.get(), {});
  EXPECT_EQ(sample->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TcpApi, ReflectionIsOnTheUnixSocketOnly) {
  const auto ask = [&](std::shared_ptr<grpc::Channel> channel) {
    grpc::GenericStub stub(channel);
    auto context = Context();
    grpc::CompletionQueue queue;
    void* tag;
    bool ok;
    auto call = stub.PrepareCall(context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                 &queue);
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->WritesDone(nullptr);
    queue.Next(&tag, &ok);
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    return status.error_code();
  };
  EXPECT_EQ(ask(channel_), grpc::StatusCode::OK);
  EXPECT_EQ(ask(grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->tcp_port()),
                                    grpc::InsecureChannelCredentials())),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerApi, TcpWithoutProtectionDoesNotStart) {
  const auto start = [&](const config::TcpConfig& tcp) {
    config::Config config = config_;
    config.socket.path = dir_ + "/other.sock";
    config.tcp = tcp;
    return Server::Start({&config, store_.get(), manager_.get(), metrics_.get(), "test", "x", absl::Now()}).status();
  };
  config::TcpConfig open;
  open.address = "127.0.0.1:0";
  EXPECT_EQ(start(open).code(), absl::StatusCode::kFailedPrecondition);
  config::TcpConfig clear = open;
  clear.address = "0.0.0.0:0";
  clear.token_file = dir_ + "/token";
  std::ofstream(clear.token_file) << kToken;
  chmod(clear.token_file.c_str(), 0600);
  EXPECT_EQ(start(clear).code(), absl::StatusCode::kFailedPrecondition);
  config::TcpConfig weak = open;
  weak.token_file = dir_ + "/weak";
  std::ofstream(weak.token_file) << "password";
  chmod(weak.token_file.c_str(), 0600);
  EXPECT_EQ(start(weak).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/other.sock"));
}

}  // namespace
}  // namespace finetuned::api
