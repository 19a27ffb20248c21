#include "fake_worker.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"

namespace finetuned::api {

FakeWorker::FakeWorker(std::string device, int64_t device_bytes)
    : device_(std::move(device)), device_bytes_(device_bytes), thread_([this] { Loop(); }) {}

FakeWorker::~FakeWorker() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FakeWorker::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
    if (closing_) return;
    const auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

void FakeWorker::Post(std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

int FakeWorker::Start() {
  int number = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    number = ++number_;
    sequence_ = 1;  // the hello
  }
  Post([this, number] {
    internal::v1::WorkerHello hello;
    hello.set_pid(12345);
    hello.set_device(device_);
    hello.set_device_total_bytes(device_bytes_);
    hello.set_device_free_bytes(device_bytes_);
    hello.set_context_bytes(context_bytes_);
    hello.set_workspace_bytes(workspace_bytes_);
    events_->OnWorkerReady(number, hello);
  });
  return number;
}

void FakeWorker::Run(const internal::v1::RunJob& run) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    run_ = run;
    step_ = 0;
  }
  changed_.notify_all();
}

void FakeWorker::Sample(const internal::v1::RunSample& sample) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    samples_.push_back(sample);
  }
  changed_.notify_all();
}

void FakeWorker::CancelSample(int64_t id) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(samples_, [id](const auto& sample) { return sample.id() == id; });
  }
  changed_.notify_all();
}

std::vector<internal::v1::RunSample> FakeWorker::WaitForSamples(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  const bool there =
      changed_.wait_for(lock, std::chrono::seconds(30), [&] { return samples_.size() == count; });
  EXPECT_TRUE(there) << "the worker has " << samples_.size() << " samples, not " << count;
  return samples_;
}

void FakeWorker::Piece(int64_t sample, const std::string& text, bool done) {
  internal::v1::WorkerMessage message;
  message.mutable_sample()->set_id(sample);
  message.mutable_sample()->set_done(done);
  if (!text.empty()) message.mutable_sample()->mutable_piece()->set_text(text);
  Send(std::move(message));
}

internal::v1::RunJob FakeWorker::WaitForRun() {
  std::unique_lock<std::mutex> lock(mutex_);
  const bool there = changed_.wait_for(lock, std::chrono::seconds(30), [this] { return run_.has_value(); });
  EXPECT_TRUE(there) << "no job was handed to the worker";
  return there ? *run_ : internal::v1::RunJob();
}

void FakeWorker::Send(internal::v1::WorkerMessage message) {
  int number = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    message.set_sequence(++sequence_);
    number = number_;
  }
  Post([this, number, message = std::move(message)] { events_->OnWorkerMessage(number, message); });
}

internal::v1::WorkerEvent FakeWorker::NewEvent() {
  const internal::v1::RunJob run = WaitForRun();
  internal::v1::WorkerEvent event;
  event.set_job(run.job());
  event.set_attempt(run.attempt());
  event.set_time_unix_nanos(absl::ToUnixNanos(absl::Now()));
  return event;
}

void FakeWorker::Say(internal::v1::WorkerEvent event) {
  internal::v1::WorkerMessage message;
  *message.mutable_event() = std::move(event);
  Send(std::move(message));
}

void FakeWorker::Phase(const std::string& phase) {
  auto event = NewEvent();
  event.set_phase(phase);
  Say(event);
}

void FakeWorker::Plan(int64_t total_steps) {
  auto event = NewEvent();
  event.mutable_plan()->set_total_steps(total_steps);
  Say(event);
}

void FakeWorker::Step(int64_t step, double loss) {
  auto event = NewEvent();
  step_ = step;
  event.mutable_step()->set_step(step);
  (*event.mutable_step()->mutable_values())["loss"] = loss;
  Say(event);
}

void FakeWorker::Eval(int64_t step, double loss) {
  auto event = NewEvent();
  event.mutable_eval()->set_step(step);
  (*event.mutable_eval()->mutable_values())["eval_loss"] = loss;
  Say(event);
}

void FakeWorker::Checkpoint(int64_t step) {
  auto event = NewEvent();
  event.mutable_checkpoint()->set_step(step);
  event.mutable_checkpoint()->set_directory("checkpoints/" + std::to_string(step));
  event.mutable_checkpoint()->set_bytes(1000);
  Say(event);
}

void FakeWorker::Warn(const std::string& code) {
  auto event = NewEvent();
  event.mutable_warning()->set_code(code);
  event.mutable_warning()->set_text("a warning");
  Say(event);
}

void FakeWorker::Log(const std::string& text) {
  auto event = NewEvent();
  event.set_log(text);
  Say(event);
}

void FakeWorker::WriteAdapter(const std::string& directory) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/adapter_config.json") << "{\"r\": 16}";
  std::string bytes(3'000'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 % 251);
  std::ofstream(directory + "/adapter_model.safetensors", std::ios::binary) << bytes;
}

void FakeWorker::Finish(int outcome, const std::string& reason, const std::string& text) {
  const internal::v1::RunJob run = WaitForRun();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    run_.reset();
  }
  internal::v1::WorkerMessage message;
  auto* finished = message.mutable_finished();
  finished->set_job(run.job());
  finished->set_attempt(run.attempt());
  finished->set_outcome(outcome);
  finished->set_reason(reason);
  finished->set_message(text);
  finished->set_last_step(step_);
  if (outcome == 0) {
    WriteAdapter(run.state_dir() + "/adapter");
    finished->set_adapter_dir("adapter");
    (*finished->mutable_final_metrics())["loss"] = 0.5;
  }
  Send(std::move(message));
}

void FakeWorker::Ask(const std::string& batch_id, int completions) {
  internal::v1::WorkerMessage message;
  auto* question = message.mutable_reward();
  question->set_job(WaitForRun().job());
  question->set_batch_id(batch_id);
  for (int i = 0; i < completions; ++i) question->add_items()->set_completion(std::to_string(i));
  Send(std::move(message));
}

void FakeWorker::Reward(const internal::v1::RewardAnswer& answer) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    answers_.push_back(answer);
  }
  changed_.notify_all();
}

internal::v1::RewardAnswer FakeWorker::WaitForAnswer() {
  std::unique_lock<std::mutex> lock(mutex_);
  const bool there = changed_.wait_for(lock, std::chrono::seconds(30), [this] { return !answers_.empty(); });
  EXPECT_TRUE(there) << "no scores came";
  if (!there) return {};
  internal::v1::RewardAnswer answer = answers_.front();
  answers_.pop_front();
  return answer;
}

void FakeWorker::RunToTheEnd(int steps) {
  Phase("loading");
  Plan(steps);
  Phase("training");
  for (int step = 1; step <= steps; ++step) Step(step, 3.0 / step);
  Checkpoint(steps);
  Phase("exporting");
  Finish(0);
}

void FakeWorker::Signal(const internal::v1::JobSignal& signal) {
  switch (signal.kind()) {
    case internal::v1::JobSignal::CHECKPOINT: return Checkpoint(step_);
    case internal::v1::JobSignal::LEAVE: return Finish(75);
    case internal::v1::JobSignal::FINISH: return Finish(0);
    case internal::v1::JobSignal::CANCEL: return Finish(79);
    default: return;
  }
}

void FakeWorker::Shutdown() {
  Post([this, number = number_] { events_->OnWorkerExit(number, "exited", ""); });
}

void FakeWorker::Kill(const std::string& why) {
  Post([this, number = number_, why] { events_->OnWorkerExit(number, "killed by signal 9", why); });
}

}  // namespace finetuned::api
