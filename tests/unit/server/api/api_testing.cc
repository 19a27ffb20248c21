#include "api_testing.h"

#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "proto/spec/crc32c.h"

namespace finetuned::api {

void ApiTest::SetUp() {
  char dir[] = "/tmp/ft_api_XXXXXX";
  dir_ = mkdtemp(dir);
  config_ = config::DefaultConfig();
  config_.state_dir = dir_ + "/state";
  config_.socket.path = dir_ + "/d.sock";
  config_.models.models = {{"tiny", std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/untied"}};
  config_.worker.device = "auto";
  config_.limits.min_free_disk_bytes = 0;
  Configure(&config_);
  Boot();
}

void ApiTest::TearDown() {
  Halt();
  std::filesystem::remove_all(dir_);
}

void ApiTest::Boot() {
  store::Store::Options options;
  options.layout.state_dir = config_.state_dir;
  auto store = store::Store::Open(options);
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
  metrics::Metrics::Options metrics_options;
  metrics_options.version = "test";
  metrics_options.state_dir = config_.state_dir;
  metrics_ = std::make_unique<metrics::Metrics>(metrics_options);
  worker_ = MakeWorker();
  jobs::JobManager::Options manager_options;
  manager_options.config = &config_;
  manager_options.version = "test";
  manager_options.commit_delay = absl::Milliseconds(2);
  manager_ = std::make_unique<jobs::JobManager>(std::move(manager_options), store_.get(), metrics_.get());
  worker_->Connect(manager_->worker_events());
  const absl::Status started = manager_->Start(worker_.get());
  ASSERT_TRUE(started.ok()) << started;
  auto server = Server::Start({&config_, store_.get(), manager_.get(), metrics_.get(), "test", "instance-1", absl::Now()});
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  channel_ = grpc::CreateCustomChannel("unix:" + config_.socket.path, grpc::InsecureChannelCredentials(), args);
  jobs_ = v1::Jobs::NewStub(channel_);
  datasets_ = v1::Datasets::NewStub(channel_);
  adapters_ = v1::Adapters::NewStub(channel_);
  rewards_ = v1::Rewards::NewStub(channel_);
  daemon_ = v1::Daemon::NewStub(channel_);
}

void ApiTest::Halt() {
  if (manager_ != nullptr) manager_->Stop();
  if (server_ != nullptr) server_->Shutdown(absl::Seconds(5));
  server_.reset();
  manager_.reset();
  worker_.reset();
  metrics_.reset();
  store_.reset();
}

std::unique_ptr<grpc::ClientContext> ApiTest::Context(int seconds) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  return context;
}

grpc::Status ApiTest::Upload(const std::string& id, const std::string& data, v1::Dataset* dataset,
                             const std::string& method) {
  auto context = Context();
  auto writer = datasets_->UploadDataset(context.get(), dataset);
  constexpr size_t kChunk = 1 << 20;
  for (size_t offset = 0; offset == 0 || offset < data.size(); offset += kChunk) {
    v1::UploadDatasetRequest request;
    request.set_dataset_id(id);
    request.set_method(method);
    request.set_write_offset(static_cast<int64_t>(offset));
    request.set_data(data.substr(offset, kChunk));
    request.set_crc32c(spec::Crc32c(request.data()));
    request.set_finish(offset + kChunk >= data.size());
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

v1::CreateJobRequest ApiTest::GoodJob(const std::string& job_id) {
  if (!store_->GetDataset("datasets/rows").ok()) {
    v1::Dataset dataset;
    const grpc::Status status = Upload("rows", kGoodRows, &dataset);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(dataset.state(), v1::Dataset::ACTIVE) << dataset.ShortDebugString();
  }
  v1::CreateJobRequest request;
  request.set_job_id(job_id);
  request.mutable_job()->mutable_spec()->set_base_model("models/tiny");
  request.mutable_job()->mutable_spec()->set_dataset("datasets/rows");
  request.mutable_job()->mutable_spec()->mutable_sft();
  return request;
}

v1::Job ApiTest::Create(const v1::CreateJobRequest& request) {
  v1::Job job;
  auto context = Context();
  const grpc::Status status = jobs_->CreateJob(context.get(), request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

v1::Job ApiTest::GetJob(const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  auto context = Context();
  const grpc::Status status = jobs_->GetJob(context.get(), request, &job);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return job;
}

v1::Job ApiTest::WaitFor(const std::string& name, v1::JobState state) {
  v1::Job job;
  for (int i = 0; i < 3000; ++i) {
    job = GetJob(name);
    if (job.state() == state) return job;
    absl::SleepFor(absl::Milliseconds(10));
  }
  ADD_FAILURE() << name << " is " << v1::JobState_Name(job.state()) << ", not " << v1::JobState_Name(state) << ": "
                << job.state_message();
  return job;
}

std::string ReasonOf(const grpc::Status& status) { return DetailOf<google::rpc::ErrorInfo>(status).reason(); }

std::vector<std::string> FieldsOf(const grpc::Status& status) {
  std::vector<std::string> out;
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  for (const auto& violation : bad.field_violations()) out.push_back(violation.field());
  return out;
}

}  // namespace finetuned::api
