#include "engine/worker/link.h"

#include <chrono>
#include <filesystem>

#include <gtest/gtest.h>

namespace finetuned::worker {
namespace {

// The daemon's end: keeps what arrives, acknowledges it, sends what the test asks for.
class FakeDaemon : public internal::WorkerLink::Service {
 public:
  FakeDaemon() {
    dir_ = std::filesystem::temp_directory_path() / ("ftl-" + std::to_string(getpid()));
    std::filesystem::create_directories(dir_);
    address_ = "unix://" + (dir_ / "w.sock").string();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeDaemon() override {
    Hang();
    std::filesystem::remove_all(dir_);
  }

  grpc::Status Attach(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<internal::WorkerCommand, internal::WorkerMessage>* stream) override {
    {
      const std::lock_guard lock(mutex_);
      stream_ = stream;
    }
    changed_.notify_all();
    internal::WorkerMessage message;
    while (stream->Read(&message)) {
      internal::WorkerCommand ack;
      ack.set_acknowledged(message.sequence());
      const std::lock_guard lock(mutex_);
      received_.push_back(message);
      stream->Write(ack);
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    stream_ = nullptr;
    return grpc::Status::OK;
  }

  void Send(const internal::WorkerCommand& command) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(10), [this] { return stream_ != nullptr; }));
    stream_->Write(command);
  }

  std::vector<internal::WorkerMessage> WaitFor(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [&] { return received_.size() >= count; });
    return received_;
  }

  void Hang() { server_->Shutdown(std::chrono::system_clock::now()); }
  const std::string& address() const { return address_; }

 private:
  std::filesystem::path dir_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  grpc::ServerReaderWriter<internal::WorkerCommand, internal::WorkerMessage>* stream_ = nullptr;
  std::vector<internal::WorkerMessage> received_;
};

internal::WorkerHello Hello() {
  internal::WorkerHello hello;
  hello.set_token("secret");
  return hello;
}

internal::WorkerCommand StartRun(const std::string& job) {
  internal::WorkerCommand command;
  command.mutable_run()->set_job(job);
  command.mutable_run()->set_attempt(2);
  command.mutable_run()->set_state_dir("/state/uid");
  return command;
}

internal::WorkerCommand Signal(const std::string& job, internal::JobSignal::Kind kind) {
  internal::WorkerCommand command;
  command.mutable_signal()->set_job(job);
  command.mutable_signal()->set_kind(kind);
  return command;
}

bool Eventually(const std::function<bool()>& predicate) {
  for (int i = 0; i < 500; ++i) {
    if (predicate()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

TEST(Link, SaysHelloFirstAndNumbersItsMessages) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  LinkObserver observer(&link, StartRun("jobs/a").run());
  observer.OnPhase("training");
  observer.OnStep(1, 0.5, {{"loss", 2.0}});
  observer.OnCheckpoint(1, "/state/uid/checkpoints/step-00000001", 10);
  const auto messages = daemon.WaitFor(4);
  ASSERT_GE(messages.size(), 4u);
  EXPECT_EQ(messages[0].hello().token(), "secret");
  EXPECT_EQ(messages[1].event().phase(), "training");
  EXPECT_EQ(messages[2].event().step().values().at("loss"), 2.0);
  EXPECT_EQ(messages[2].event().attempt(), 2);
  EXPECT_EQ(messages[3].event().checkpoint().directory(), "checkpoints/step-00000001");
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(messages[i].sequence(), static_cast<int64_t>(i) + 1);
}

TEST(Link, FlushWaitsForTheAcknowledgement) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  LinkObserver observer(&link, StartRun("jobs/a").run());
  for (int i = 0; i < 200; ++i) observer.OnLog("line");
  link.Flush();
  EXPECT_GE(daemon.WaitFor(0).size(), 201u);
}

TEST(Link, SignalForAJobThatHasNotBegunWaitsForIt) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  daemon.Send(StartRun("jobs/a"));
  daemon.Send(Signal("jobs/a", internal::JobSignal::CANCEL));
  daemon.Send(StartRun("jobs/b"));  // read after the signal
  ASSERT_TRUE(link.NextWork().has_value());
  ASSERT_TRUE(link.NextWork().has_value());
  job::RunControl control;
  link.SetRunning("jobs/a", &control);
  EXPECT_TRUE(control.cancel);
}

TEST(Link, SignalForAnEarlierAttemptIsForgotten) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  daemon.Send(Signal("jobs/a", internal::JobSignal::CANCEL));
  daemon.Send(StartRun("jobs/a"));
  ASSERT_TRUE(link.NextWork().has_value());
  job::RunControl control;
  link.SetRunning("jobs/a", &control);
  EXPECT_FALSE(control.cancel);
}

TEST(Link, JobThatWaitsForASampleToEndGivesSignsOfLife) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  std::atomic<bool> cancel{false};
  link.SetSampling(7, &cancel);
  daemon.Send(StartRun("jobs/a"));
  EXPECT_TRUE(Eventually([&] { return cancel.load(); }));
  const auto messages = daemon.WaitFor(2);  // loading the base of the sample takes its time
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].heartbeat().phase(), "waiting for a sample to end");
  EXPECT_EQ(messages[1].sequence(), 2);
}

TEST(Link, SignalsReachTheRunTheyName) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  daemon.Send(StartRun("jobs/a"));
  const auto work = link.NextWork();
  ASSERT_TRUE(work.has_value() && work->run.has_value());
  EXPECT_EQ(work->run->job(), "jobs/a");
  job::RunControl control;
  link.SetRunning("jobs/a", &control);
  daemon.Send(Signal("jobs/other", internal::JobSignal::CANCEL));
  daemon.Send(Signal("jobs/a", internal::JobSignal::CHECKPOINT));
  EXPECT_TRUE(Eventually([&] { return control.checkpoint.load(); }));
  EXPECT_FALSE(control.cancel);
  daemon.Send(Signal("jobs/a", internal::JobSignal::CANCEL));
  EXPECT_TRUE(Eventually([&] { return control.cancel.load(); }));
  link.SetRunning("", nullptr);
}

internal::WorkerCommand StartSample(int64_t id) {
  internal::WorkerCommand command;
  command.mutable_sample()->set_id(id);
  return command;
}

TEST(Link, SamplesComeInTurnAndEndWhenCancelled) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  for (int64_t id : {1, 2, 3}) daemon.Send(StartSample(id));
  const auto first = link.NextWork();
  ASSERT_TRUE(first.has_value() && first->sample.has_value());
  EXPECT_EQ(first->sample->id(), 1);
  std::atomic<bool> cancel{false};
  link.SetSampling(1, &cancel);
  internal::WorkerCommand command;
  command.mutable_cancel_sample()->set_id(2);  // waits: it never runs
  daemon.Send(command);
  command.mutable_cancel_sample()->set_id(1);
  daemon.Send(command);
  EXPECT_TRUE(Eventually([&] { return cancel.load(); }));
  link.SetSampling(0, nullptr);
  const auto next = link.NextWork();
  ASSERT_TRUE(next.has_value() && next->sample.has_value());
  EXPECT_EQ(next->sample->id(), 3);
}

TEST(Link, AJobEndsTheSampleAndComesFirst) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  daemon.Send(StartSample(1));
  ASSERT_TRUE(link.NextWork().has_value());
  std::atomic<bool> cancel{false};
  link.SetSampling(1, &cancel);
  daemon.Send(StartSample(2));
  daemon.Send(StartRun("jobs/a"));
  EXPECT_TRUE(Eventually([&] { return cancel.load(); }));
  link.SetSampling(0, nullptr);
  const auto next = link.NextWork();
  ASSERT_TRUE(next.has_value() && next->run.has_value());
  EXPECT_EQ(next->run->job(), "jobs/a");
}

TEST(Link, ShutdownEndsTheWaitForJobs) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  internal::WorkerCommand command;
  command.mutable_shutdown();
  daemon.Send(command);
  EXPECT_FALSE(link.NextWork().has_value());
  EXPECT_FALSE(link.lost());
}

TEST(Link, LosingTheDaemonTellsTheRunToLeaveWithACheckpoint) {
  FakeDaemon daemon;
  Link link(daemon.address(), Hello());
  daemon.WaitFor(1);
  job::RunControl control;
  link.SetRunning("jobs/a", &control);
  daemon.Hang();
  EXPECT_TRUE(Eventually([&] { return control.leave.load(); }));
  EXPECT_TRUE(link.lost());
  EXPECT_FALSE(link.NextWork().has_value());
  link.SetRunning("", nullptr);
}

}  // namespace
}  // namespace finetuned::worker
