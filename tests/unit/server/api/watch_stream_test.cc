#include "server/api/watch_stream.h"

#include <chrono>
#include <future>

#include "absl/time/clock.h"
#include "api_testing.h"

// The semantics of WatchJob. The names follow bugs that other watch APIs had.
namespace finetuned::api {
namespace {

using ::testing::ElementsAre;

class WatchApi : public ApiTest {
 protected:
  struct Seen {
    std::vector<v1::WatchJobResponse> responses;
    grpc::Status status;
    std::vector<int64_t> sequences() const {
      std::vector<int64_t> out;
      for (const auto& r : responses) {
        if (r.event().sequence() > 0) out.push_back(r.event().sequence());
      }
      return out;
    }
  };
  // Reads until the stream ends, or until `stop` events have come; then cancels.
  Seen Watch(const v1::WatchJobRequest& request, int stop = 1 << 30, int seconds = 30) {
    Seen seen;
    auto context = Context(seconds);
    auto reader = jobs_->WatchJob(context.get(), request);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      seen.responses.push_back(response);
      if (static_cast<int>(seen.responses.size()) >= stop) {
        context->TryCancel();
        break;
      }
    }
    seen.status = reader->Finish();
    return seen;
  }
  static v1::WatchJobRequest Of(const v1::Job& job) {
    v1::WatchJobRequest request;
    request.set_name(job.name());
    return request;
  }
  static void ExpectGapless(const std::vector<int64_t>& sequences, int64_t first) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      ASSERT_EQ(sequences[i], first + static_cast<int64_t>(i));
    }
  }
  v1::Job FinishedJob(int steps) {
    const v1::Job job = Create(GoodJob());
    worker_->WaitForRun();
    worker_->RunToTheEnd(steps);
    return WaitFor(job.name(), v1::SUCCEEDED);
  }
};

TEST_F(WatchApi, AFinishedJobIsReplayedAndTheTerminalEventIsLast) {
  const v1::Job job = FinishedJob(10);
  const Seen seen = Watch(Of(job));
  EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
  ASSERT_GT(seen.responses.size(), 10u);
  ExpectGapless(seen.sequences(), 1);
  EXPECT_EQ(seen.responses.back().event().state_changed().to(), v1::SUCCEEDED);
  EXPECT_EQ(seen.responses.back().event().name(),
            job.name() + "/events/" + std::to_string(seen.responses.back().event().sequence()));
}

TEST_F(WatchApi, LiveEventsComeInOrderToEveryWatcher) {
  const v1::Job job = Create(GoodJob());
  auto one = std::async(std::launch::async, [&] { return Watch(Of(job)); });
  auto two = std::async(std::launch::async, [&] { return Watch(Of(job)); });
  worker_->WaitForRun();
  worker_->RunToTheEnd(300);
  const Seen first = one.get(), second = two.get();
  EXPECT_TRUE(first.status.ok() && second.status.ok());
  ExpectGapless(first.sequences(), 1);
  EXPECT_EQ(first.sequences(), second.sequences());
}

TEST_F(WatchApi, ResumingAtEveryEventLosesNothingAndRepeatsNothing) {
  const v1::Job job = FinishedJob(12);
  const Seen all = Watch(Of(job));
  for (const auto& response : all.responses) {
    v1::WatchJobRequest request = Of(job);
    request.set_resume_token(response.resume_token());
    const Seen rest = Watch(request);
    EXPECT_TRUE(rest.status.ok());
    ExpectGapless(rest.sequences(), response.event().sequence() + 1);
    EXPECT_EQ(rest.responses.size() + static_cast<size_t>(response.event().sequence()), all.responses.size());
  }
}

TEST_F(WatchApi, ResumingWhileEventsArriveIsExact) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  std::thread training([&] { worker_->RunToTheEnd(400); });
  std::vector<int64_t> sequences;
  v1::WatchJobRequest request = Of(job);
  for (int i = 0; i < 200; ++i) {
    const Seen part = Watch(request, 7);  // the connection breaks after seven events
    for (const int64_t sequence : part.sequences()) sequences.push_back(sequence);
    if (!part.responses.empty()) request.set_resume_token(part.responses.back().resume_token());
    if (part.status.ok()) break;
  }
  training.join();
  ASSERT_GT(sequences.size(), 400u);
  ExpectGapless(sequences, 1);
}

TEST_F(WatchApi, ATokenOutlivesTheDaemon) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  worker_->Step(1, 1.0);
  const Seen before = Watch(Of(job), 3);
  ASSERT_EQ(before.responses.size(), 3u);
  Halt();
  Boot();
  worker_->WaitForRun();
  worker_->RunToTheEnd(5);
  v1::WatchJobRequest request = Of(job);
  request.set_resume_token(before.responses.back().resume_token());
  const Seen after = Watch(request);
  EXPECT_TRUE(after.status.ok());
  ExpectGapless(after.sequences(), 4);
}

TEST_F(WatchApi, FromNowSkipsThePastAndMissesNothingAfter) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  for (int step = 1; step <= 50; ++step) worker_->Step(step, 1.0);
  WaitFor(job.name(), v1::RUNNING);
  while (GetJob(job.name()).progress().step() < 50) absl::SleepFor(absl::Milliseconds(5));
  v1::WatchJobRequest request = Of(job);
  request.set_from_now(true);
  auto context = Context();
  auto reader = jobs_->WatchJob(context.get(), request);
  while (store_->LastSequence(job.uid()).value() < 50) absl::SleepFor(absl::Milliseconds(5));
  absl::SleepFor(absl::Milliseconds(300));  // the watch is open by then
  worker_->Checkpoint(50);
  worker_->Finish(0);
  v1::WatchJobResponse response;
  std::vector<int64_t> sequences;
  while (reader->Read(&response)) sequences.push_back(response.event().sequence());
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_FALSE(sequences.empty());
  EXPECT_GT(sequences.front(), 50);
  ExpectGapless(sequences, sequences.front());
}

TEST_F(WatchApi, CoalescedMetricsKeepEveryOtherEvent) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  worker_->Phase("training");
  for (int step = 1; step <= 100; ++step) {
    worker_->Step(step, 1.0);
    if (step % 25 == 0) {
      worker_->Checkpoint(step);
      worker_->Eval(step, 2.0);
      worker_->Warn("CODE");
    }
  }
  worker_->Finish(0);
  WaitFor(job.name(), v1::SUCCEEDED);
  v1::WatchJobRequest request = Of(job);
  request.mutable_metric_interval()->set_seconds(3600);
  const Seen seen = Watch(request);
  int metrics = 0, checkpoints = 0, evals = 0, warnings = 0;
  for (const auto& response : seen.responses) {
    metrics += response.event().has_metrics();
    checkpoints += response.event().has_checkpoint();
    evals += response.event().has_eval();
    warnings += response.event().has_warning();
  }
  EXPECT_EQ(metrics, 1);
  EXPECT_EQ(checkpoints, 4);
  EXPECT_EQ(evals, 4);
  EXPECT_EQ(warnings, 4);
  EXPECT_EQ(seen.responses.back().event().state_changed().to(), v1::SUCCEEDED);
}

TEST_F(WatchApi, KindsAreFilteredButTheEndIsAlwaysSent) {
  const v1::Job job = FinishedJob(5);
  v1::WatchJobRequest request = Of(job);
  request.add_types("checkpoint");
  const Seen seen = Watch(request);
  ASSERT_EQ(seen.responses.size(), 2u);
  EXPECT_TRUE(seen.responses[0].event().has_checkpoint());
  EXPECT_EQ(seen.responses[1].event().state_changed().to(), v1::SUCCEEDED);
  request.add_types("checkpoints");
  EXPECT_THAT(FieldsOf(Watch(request).status), ElementsAre("types[1]"));
}

TEST_F(WatchApi, BadTokensAreRefused) {
  const v1::Job job = FinishedJob(3);
  const v1::Job other = FinishedJob(3);
  v1::WatchJobRequest request = Of(job);
  request.set_resume_token("nonsense");
  EXPECT_THAT(FieldsOf(Watch(request).status), ElementsAre("resume_token"));
  request.set_resume_token(EncodeWatchToken({1, 2, other.uid()}));
  EXPECT_THAT(FieldsOf(Watch(request).status), ElementsAre("resume_token"));
  request.set_resume_token(EncodeWatchToken({1, 1'000'000, job.uid()}));
  EXPECT_EQ(Watch(request).status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  request.set_name("jobs/nothing");
  EXPECT_EQ(Watch(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(WatchApi, ATokenOfTheLastEventEndsAtOnce) {
  const v1::Job job = FinishedJob(3);
  const Seen all = Watch(Of(job));
  v1::WatchJobRequest request = Of(job);
  request.set_resume_token(all.responses.back().resume_token());
  const Seen none = Watch(request);
  EXPECT_TRUE(none.status.ok());
  EXPECT_TRUE(none.responses.empty());
}

TEST_F(WatchApi, ASlowReaderGetsEverythingAndHoldsNobodyUp) {
  const v1::Job job = Create(GoodJob());
  auto context = Context(60);
  auto reader = jobs_->WatchJob(context.get(), Of(job));
  worker_->WaitForRun();
  worker_->Phase("training");
  const std::string text(20'000, 'x');
  for (int i = 0; i < 400; ++i) worker_->Log(text);  // far more than any buffer holds
  worker_->Finish(0);
  WaitFor(job.name(), v1::SUCCEEDED);  // while nothing is read
  std::vector<int64_t> sequences;
  v1::WatchJobResponse response;
  while (reader->Read(&response)) sequences.push_back(response.event().sequence());
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_GT(sequences.size(), 400u);
  ExpectGapless(sequences, 1);
}

TEST_F(WatchApi, AQuietJobSendsHeartbeatsWithAToken) {
  auto request = GoodJob();
  request.mutable_job()->mutable_scheduling()->set_hold(true);
  const v1::Job job = Create(request);
  auto context = Context(60);
  auto reader = jobs_->WatchJob(context.get(), Of(job));
  v1::WatchJobResponse response;
  bool beat = false;
  while (!beat && reader->Read(&response)) beat = response.event().has_heartbeat();
  EXPECT_TRUE(beat);
  EXPECT_EQ(response.event().sequence(), 0);
  EXPECT_FALSE(response.resume_token().empty());
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WatchApi, ALeavingDaemonEndsWatchesSoThatTheyComeBack) {
  const v1::Job job = Create(GoodJob());
  auto watch = std::async(std::launch::async, [&] { return Watch(Of(job)); });
  absl::SleepFor(absl::Milliseconds(300));
  manager_->Stop();
  EXPECT_EQ(watch.get().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WatchApi, ManyWatchersThatLeaveAtOnceLeaveNothingBehind) {
  const v1::Job job = Create(GoodJob());
  worker_->WaitForRun();
  std::vector<std::future<void>> watchers;
  for (int i = 0; i < 30; ++i) {
    watchers.push_back(std::async(std::launch::async, [&, i] { Watch(Of(job), 1 + i % 5); }));
  }
  worker_->RunToTheEnd(100);
  for (auto& watcher : watchers) watcher.get();
  WaitFor(job.name(), v1::SUCCEEDED);
}

}  // namespace
}  // namespace finetuned::api
