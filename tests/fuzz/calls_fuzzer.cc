// Sequences of calls with any request messages on the whole daemon but the worker, over its Unix socket. An input is a
// list of records: method (1 byte), length (2 bytes, little endian), serialized request.
#include <algorithm>
#include <filesystem>
#include <memory>

#include <google/protobuf/dynamic_message.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "finetuned/v1/adapters.pb.h"
#include "finetuned/v1/daemon.pb.h"
#include "finetuned/v1/datasets.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "finetuned/v1/rewards.pb.h"
#include "fuzzing.h"
#include "message_mutator.h"
#include "proto/spec/crc32c.h"
#include "server/api/server.h"

namespace {

using namespace finetuned;
using fuzz::Require;
using google::protobuf::Descriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr size_t kMaxRecords = 8;
constexpr std::chrono::milliseconds kUnaryLimit{20'000};  // longer: the call hangs
constexpr std::chrono::milliseconds kStreamLimit{50};     // watches go on for ever
constexpr int kInputsPerDaemon = 200;  // then it starts again with an empty state directory

// Every method of every service; draining would end the daemon.
const std::vector<const MethodDescriptor*>& Methods() {
  static const auto* methods = [] {
    auto* found = new std::vector<const MethodDescriptor*>();
    for (const auto* file : {v1::Job::descriptor()->file(), v1::Dataset::descriptor()->file(),
                             v1::Adapter::descriptor()->file(), v1::RewardHello::descriptor()->file(),
                             v1::ServerInfo::descriptor()->file()}) {
      for (int s = 0; s < file->service_count(); ++s) {
        for (int m = 0; m < file->service(s)->method_count(); ++m) {
          if (file->service(s)->method(m)->name() != "DrainServer") found->push_back(file->service(s)->method(m));
        }
      }
    }
    return found;
  }();
  return *methods;
}

struct Record {
  uint8_t method = 0;
  std::string request;
};

std::vector<Record> Unpack(std::string_view bytes) {
  std::vector<Record> records;
  while (bytes.size() >= 3 && records.size() < kMaxRecords) {
    const size_t length = static_cast<uint8_t>(bytes[1]) | static_cast<size_t>(static_cast<uint8_t>(bytes[2])) << 8;
    const std::string_view request = bytes.substr(3, length);
    records.push_back({static_cast<uint8_t>(static_cast<uint8_t>(bytes[0]) % Methods().size()), std::string(request)});
    bytes.remove_prefix(3 + request.size());
  }
  return records;
}

std::string Pack(const std::vector<Record>& records) {
  std::string bytes;
  for (const Record& record : records) {
    bytes.push_back(static_cast<char>(record.method));
    bytes.push_back(static_cast<char>(record.request.size() & 0xff));
    bytes.push_back(static_cast<char>(record.request.size() >> 8));
    bytes += record.request;
  }
  return bytes;
}

std::unique_ptr<Message> NewRequest(uint8_t method) {
  const Descriptor* type = Methods()[method]->input_type();
  return std::unique_ptr<Message>(google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

// A worker that takes jobs, does nothing and leaves when anything is asked of it.
class IdleWorker : public supervisor::Backend {
 public:
  void Connect(supervisor::WorkerEvents* events) { events_ = events; }
  int Start() override {
    internal::v1::WorkerHello hello;
    hello.set_device("cpu");
    events_->OnWorkerReady(++number_, hello);
    return number_;
  }
  void Run(const internal::v1::RunJob&) override {}
  void Signal(const internal::v1::JobSignal&) override { Leave(); }
  void Reward(const internal::v1::RewardAnswer&) override {}
  void Sample(const internal::v1::RunSample&) override {}
  void CancelSample(int64_t) override {}
  void Acknowledge(int64_t) override {}
  void Shutdown() override { Leave(); }
  void Kill(const std::string&) override { Leave(); }

 private:
  void Leave() { events_->OnWorkerExit(number_, "left", ""); }
  supervisor::WorkerEvents* events_ = nullptr;
  int number_ = 0;
};

class Daemon {
 public:
  Daemon() {
    char folder[] = "/tmp/ft_fuzz_XXXXXX";
    folder_ = mkdtemp(folder);
    config_ = config::DefaultConfig();
    config_.state_dir = folder_ + "/state";
    config_.socket.path = folder_ + "/d.sock";
    config_.models.models = {{"tiny", std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/untied"}};
    config_.limits.min_free_disk_bytes = 0;
    config_.limits.max_queued_jobs = 20;
    store_ = store::Store::Open({store::Layout{config_.state_dir}, nullptr}).value();
    metrics_ = std::make_unique<metrics::Metrics>(metrics::Metrics::Options{"fuzz", config_.state_dir, absl::Minutes(1)});
    jobs::JobManager::Options options;
    options.config = &config_;
    options.version = "fuzz";
    options.commit_delay = absl::Milliseconds(1);
    manager_ = std::make_unique<jobs::JobManager>(std::move(options), store_.get(), metrics_.get());
    worker_.Connect(manager_->worker_events());
    Require(manager_->Start(&worker_).ok(), "the queue starts");
    auto server = api::Server::Start({&config_, store_.get(), manager_.get(), metrics_.get(), "fuzz", "fuzz", absl::Now()});
    Require(server.ok(), server.status().ToString());
    server_ = *std::move(server);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel("unix:" + config_.socket.path, grpc::InsecureChannelCredentials(), arguments));
    UploadRows();
  }
  ~Daemon() {
    manager_->Stop();
    server_->Shutdown(absl::ZeroDuration());
    server_.reset();
    manager_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  // Sends one message, reads a few and checks how it ends.
  void Call(const MethodDescriptor& method, const std::string& request, std::chrono::milliseconds limit) {
    const bool streams = method.client_streaming() || method.server_streaming();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + (streams ? limit : kUnaryLimit));
    grpc::CompletionQueue queue;
    auto call = stub_->PrepareCall(&context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    wait();
    const grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    wait();
    grpc::ByteBuffer answer;
    for (int i = 0; i < 5; ++i) {
      call->Read(&answer, nullptr);
      if (!wait()) break;
      if (i == 4) context.TryCancel();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    queue.Shutdown();
    void* tag = nullptr;
    for (bool ok = false; queue.Next(&tag, &ok);) {}
    CheckStatus(method, streams, status);
  }

 private:
  void CheckStatus(const MethodDescriptor& method, bool streams, const grpc::Status& status) const {
    const std::string what = absl::StrCat(method.name(), ": ", status.error_code(), " ", status.error_message());
    Require(streams || status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED, "a call is answered: " + what);
    Require(status.error_code() != grpc::StatusCode::UNAVAILABLE || !status.error_details().empty(),
            "the daemon answers: " + what);
    Require(!absl::StrContains(status.error_message(), folder_), "no path of the daemon in " + what);
    if (status.error_details().empty()) return;  // gRPC's own: not a message, cancelled
    Require(status.error_code() != grpc::StatusCode::INTERNAL && status.error_code() != grpc::StatusCode::UNKNOWN,
            "errors are foreseen: " + what);
    Require(!absl::StrContains(status.error_details(), folder_), "no path of the daemon in the details of " + what);
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    Require(details.ParseFromString(status.error_details()) &&
                std::any_of(details.details().begin(), details.details().end(),
                            [&](const auto& detail) { return detail.UnpackTo(&info); }) &&
                info.domain() == "finetuned",
            "every error has an ErrorInfo: " + what);
  }

  void UploadRows() {
    v1::UploadDatasetRequest request;
    request.set_dataset_id("rows");
    request.set_method("sft");
    request.set_data("{\"prompt\": \"What is 2+2?\", \"completion\": \" 4\"}\n");
    request.set_crc32c(spec::Crc32c(request.data()));
    request.set_finish(true);
    const Descriptor* file = v1::Dataset::descriptor();
    Call(*file->file()->FindServiceByName("Datasets")->FindMethodByName("UploadDataset"), request.SerializeAsString(),
         kUnaryLimit);
    Require(store_->GetDataset("datasets/rows").ok(), "the rows are there");
  }

  std::string folder_;
  config::Config config_;
  IdleWorker worker_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<metrics::Metrics> metrics_;
  std::unique_ptr<jobs::JobManager> manager_;
  std::unique_ptr<api::Server> server_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

std::vector<std::string> Words() {
  return {"jobs/first-job", "first-job", "jobs/second-job", "second-job", "datasets/rows", "rows", "models/tiny",
          "adapters/first-job", "jobs/first-job/checkpoints/1", "shapes/llama-3.1-8b", "sft", "dpo", "kto", "grpo",
          "labels", "display_name", "scheduling", "scheduling.priority", "scheduling.hold", "spec.seed", "*",
          "state = QUEUED", "state != FAILED AND method = sft", "labels.a = b", "create_time desc", "priority desc",
          "0b8d7e0e-5e0f-4a53-8f6a-3c1c0a8a4d11", "q_proj", "all-linear", "loss", "exact", "regex", "json_schema",
          "{\"prompt\": \"a\", \"completion\": \"b\"}\n", "../../etc/passwd", "/etc/passwd", "", "\n"};
}

// A valid job, now and then: most other calls say little without one.
void MakeGoodJob(Message* request, uint32_t number) {
  auto* create = dynamic_cast<v1::CreateJobRequest*>(request);
  if (create == nullptr) return;
  create->set_job_id(number % 2 == 0 ? "first-job" : "second-job");
  create->mutable_job()->mutable_spec()->set_base_model("models/tiny");
  create->mutable_job()->mutable_spec()->set_dataset("datasets/rows");
  create->mutable_job()->mutable_spec()->mutable_sft();
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  static const auto* words = new std::vector<std::string>(Words());
  std::mt19937 random(seed);
  fuzz::MessageMutator mutator(seed, *words);
  std::vector<Record> records = Unpack(fuzz::AsText(data, size));
  const bool add = records.empty() || (records.size() < kMaxRecords && random() % 3 == 0);
  if (add) records.push_back({static_cast<uint8_t>(random() % Methods().size()), ""});
  if (!add && records.size() > 1 && random() % 8 == 0) records.erase(records.begin() + random() % records.size());
  Record& record = add ? records.back() : records[random() % records.size()];
  const auto request = NewRequest(record.method);
  request->ParsePartialFromString(record.request);
  if (add) MakeGoodJob(request.get(), random());
  for (uint32_t i = 0, n = 1 + random() % 4; i < n; ++i) mutator.Mutate(request.get());
  record.request = request->SerializePartialAsString();
  const std::string packed = Pack(records);
  if (record.request.size() > 0xffff || packed.size() > max_size) return size;
  std::copy(packed.begin(), packed.end(), data);
  return packed.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::unique_ptr<Daemon>* daemon = new std::unique_ptr<Daemon>();
  static int inputs = 0;
  if (inputs++ % kInputsPerDaemon == 0) {
    daemon->reset();
    *daemon = std::make_unique<Daemon>();
  }
  for (const Record& record : Unpack(fuzz::AsText(data, size))) {
    (*daemon)->Call(*Methods()[record.method], record.request, kStreamLimit);
  }
  return 0;
}
