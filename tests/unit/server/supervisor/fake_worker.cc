// A worker for tests: speaks WorkerLink as finetune-worker does, trains nothing. What a job does follows
// from the first word of its name: jobs/slow-1 is slow. `--mode` tells what the process does before any job.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "finetuned/internal/v1/worker.grpc.pb.h"

namespace finetuned {
namespace {

namespace fs = std::filesystem;
using internal::v1::JobSignal;
using internal::v1::RunJob;
using internal::v1::WorkerCommand;
using internal::v1::WorkerMessage;

struct Options {
  std::string address, mode;
  int token_fd = -1;
};

class FakeWorker {
 public:
  explicit FakeWorker(const Options& options) {
    stub_ = internal::v1::WorkerLink::NewStub(
        grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
    stream_ = stub_->Attach(&context_);
    WorkerMessage hello;
    char token[256];
    const ssize_t n = read(options.token_fd, token, sizeof token);
    hello.mutable_hello()->set_token(options.mode == "wrong-token" ? "wrong" : std::string(token, n));
    hello.mutable_hello()->set_pid(getpid());
    hello.mutable_hello()->set_device("cpu");
    Send(hello);
    reader_ = std::thread([this] { Read(); });
  }

  int Serve() {
    while (const auto run = Next()) Do(*run);
    context_.TryCancel();
    reader_.join();
    return 0;
  }

 private:
  void Send(WorkerMessage message) {
    std::lock_guard lock(write_);
    message.set_sequence(++sequence_);
    stream_->Write(message);
  }

  void Read() {
    WorkerCommand command;
    while (stream_->Read(&command)) {
      std::lock_guard lock(mutex_);
      acknowledged_ = std::max(acknowledged_, command.acknowledged());
      if (command.has_run()) runs_.push_back(command.run());
      if (command.has_signal()) signal_ = command.signal().kind();
      if (command.has_shutdown()) leaving_ = true;
      changed_.notify_all();
    }
    std::lock_guard lock(mutex_);
    leaving_ = lost_ = true;
    changed_.notify_all();
  }

  std::optional<RunJob> Next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return leaving_ || !runs_.empty(); });
    if (leaving_) return std::nullopt;
    RunJob run = runs_.front();
    runs_.pop_front();
    signal_ = JobSignal::KIND_UNSPECIFIED;
    return run;
  }

  WorkerMessage Event(const RunJob& run) {
    WorkerMessage message;
    message.mutable_event()->set_job(run.job());
    message.mutable_event()->set_attempt(run.attempt());
    message.mutable_event()->set_time_unix_nanos(
        std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
    return message;
  }
  void Phase(const RunJob& run, const char* phase) {
    WorkerMessage message = Event(run);
    message.mutable_event()->set_phase(phase);
    Send(message);
  }

  static int64_t LastCheckpoint(const RunJob& run) {
    int64_t last = 0;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(run.state_dir() + "/checkpoints", error)) {
      last = std::max<int64_t>(last, std::atoll(entry.path().filename().c_str()));
    }
    return last;
  }
  void Checkpoint(const RunJob& run, int64_t step) {
    const std::string relative = "checkpoints/" + std::to_string(step);
    fs::create_directories(run.state_dir() + "/" + relative);
    if (step > 2) fs::remove_all(run.state_dir() + "/checkpoints/" + std::to_string(step - 2));
    WorkerMessage message = Event(run);
    message.mutable_event()->mutable_checkpoint()->set_step(step);
    message.mutable_event()->mutable_checkpoint()->set_directory(relative);
    Send(message);
  }
  void Step(const RunJob& run, int64_t step) {
    WorkerMessage message = Event(run);
    auto* point = message.mutable_event()->mutable_step();
    point->set_step(step);
    (*point->mutable_values())["loss"] = 1.0 / static_cast<double>(step);
    (*point->mutable_values())["num_tokens"] = static_cast<double>(step * 100);
    (*point->mutable_values())["trained_tokens"] = static_cast<double>(step * 60);
    Send(message);
  }
  void Finish(const RunJob& run, int outcome, const std::string& reason, const std::string& text, int64_t step) {
    WorkerMessage message;
    auto* finished = message.mutable_finished();
    finished->set_job(run.job());
    finished->set_attempt(run.attempt());
    finished->set_outcome(outcome);
    finished->set_reason(reason);
    finished->set_message(text);
    finished->set_last_step(step);
    if (outcome == 0) {
      fs::create_directories(run.state_dir() + "/adapter");
      std::ofstream(run.state_dir() + "/adapter/adapter_model.safetensors") << "weights of " << run.job();
      std::ofstream(run.state_dir() + "/adapter/adapter_config.json") << "{}";
      finished->set_adapter_dir("adapter");
    }
    Send(message);
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [this] { return acknowledged_ >= sequence_ || lost_; });
  }

  void Do(const RunJob& run) {
    const std::string id = run.job().substr(5);
    const std::string kind = id.substr(0, id.find('-'));
    if (kind == "refuse") return Finish(run, 65, "INVALID_DATASET", "line 3: no messages", 0);
    if (kind == "unfit") return Finish(run, 78, "REWARDS_FAILED", "no completion got a score", 0);
    const int64_t total = kind == "slow" || kind == "stubborn" ? 2000 : 6;
    const int64_t first = LastCheckpoint(run);
    Phase(run, "loading");
    WorkerMessage plan = Event(run);
    plan.mutable_event()->mutable_plan()->set_first_step(first);
    plan.mutable_event()->mutable_plan()->set_total_steps(total);
    Send(plan);
    Phase(run, "training");
    int64_t step = first;
    while (step < total) {
      Step(run, ++step);
      if (step % 2 == 0) Checkpoint(run, step);
      if (step == 3 && (kind == "crash" || (kind == "crashonce" && run.attempt() == 1))) Crash();
      if (step == 3 && kind == "hang") Hang();
      if (total > 100) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      std::unique_lock lock(mutex_);
      if (kind == "stubborn") continue;
      const bool lost = lost_;
      const JobSignal::Kind signal = signal_;
      signal_ = JobSignal::KIND_UNSPECIFIED;
      lock.unlock();
      if (signal == JobSignal::CANCEL) return Finish(run, 79, "", "cancelled", step);
      if (signal == JobSignal::FINISH) break;
      if (signal == JobSignal::CHECKPOINT) Checkpoint(run, step);
      if (signal == JobSignal::LEAVE || lost) {
        Checkpoint(run, step);
        return Finish(run, 75, "", "left", step);
      }
    }
    Phase(run, "exporting");
    Finish(run, 0, "", "", step);
  }

  [[noreturn]] static void Crash() {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::fprintf(stderr, "CUDA error: an illegal memory access was encountered\n");
    signal(SIGSEGV, SIG_DFL);
    kill(getpid(), SIGSEGV);
    for (;;) pause();
  }
  [[noreturn]] static void Hang() {
    for (;;) pause();
  }

  std::unique_ptr<internal::v1::WorkerLink::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<WorkerMessage, WorkerCommand>> stream_;
  std::mutex write_;
  int64_t sequence_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<RunJob> runs_;  // guarded by mutex_, like all below
  JobSignal::Kind signal_ = JobSignal::KIND_UNSPECIFIED;
  int64_t acknowledged_ = 0;
  bool leaving_ = false, lost_ = false;
  std::thread reader_;
};

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--connect") options.address = argv[i + 1];
    if (key == "--token-fd") options.token_fd = std::atoi(argv[i + 1]);
    if (key == "--mode") options.mode = argv[i + 1];
  }
  std::printf("fake worker, mode \"%s\"\n", options.mode.c_str());
  std::fflush(stdout);
  if (options.mode == "exit") return 3;
  if (options.mode == "mute") pause();
  if (options.mode == "child" && fork() == 0) pause();  // a child that outlives it and holds its output
  return FakeWorker(options).Serve();
}

}  // namespace
}  // namespace finetuned

int main(int argc, char** argv) { return finetuned::Main(argc, argv); }
