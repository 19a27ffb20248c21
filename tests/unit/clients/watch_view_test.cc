#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "clients/cli/watch.h"

namespace finetuned::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Job NewJob() {
  v1::Job job;
  job.set_name("jobs/support-bot");
  job.set_state(v1::QUEUED);
  job.set_state_message("waits for the GPU");
  job.mutable_spec()->mutable_sft();
  job.mutable_spec()->set_base_model("models/smollm2");
  job.mutable_memory()->set_total_bytes(3'600'000'000);
  return job;
}

v1::Event State(v1::JobState from, v1::JobState to, int64_t at) {
  v1::Event e;
  e.mutable_time()->set_seconds(at);
  e.mutable_state_changed()->set_from(from);
  e.mutable_state_changed()->set_to(to);
  return e;
}

v1::Event Step(int64_t step, double loss, int64_t at) {
  v1::Event e;
  e.mutable_time()->set_seconds(at);
  e.mutable_metrics()->set_step(step);
  auto& values = *e.mutable_metrics()->mutable_values();
  values["loss"] = loss;
  values["step_time"] = 2.0;
  values["tokens_per_second"] = 1234;
  values["learning_rate"] = 1e-4;
  values["grad_norm"] = 0.7;
  values["mean_token_accuracy"] = 0.66;
  values["memory_peak_bytes"] = 3.21e9;
  return e;
}

std::string Text(const WatchView& view, int width = 120) {
  return absl::StrJoin(view.Draw(width, Style{}), "\n");
}

TEST(WatchView, QueuedJobSaysWhy) {
  WatchView view(NewJob());
  EXPECT_THAT(Text(view), HasSubstr("QUEUED  waits for the GPU"));
}

TEST(WatchView, RunningJobShowsProgressLossMemoryAndEta) {
  WatchView view(NewJob());
  view.Apply(State(v1::QUEUED, v1::PREPARING, 100));
  v1::Event planned;
  planned.mutable_time()->set_seconds(105);
  planned.mutable_planned()->set_total_steps(10);
  view.Apply(planned);
  view.Apply(State(v1::PREPARING, v1::RUNNING, 106));
  for (int i = 1; i <= 4; ++i) view.Apply(Step(i, 3.0 - 0.5 * i, 106 + 2 * i));
  const std::string text = Text(view);
  EXPECT_THAT(text, HasSubstr("4/10 steps  40.0%"));
  EXPECT_THAT(text, HasSubstr("loss 1.0000"));
  EXPECT_THAT(text, HasSubstr("first 2.5000  best 1.0000"));
  EXPECT_THAT(text, HasSubstr("1,234 tokens/s"));
  EXPECT_THAT(text, HasSubstr("3.21 GB peak of 3.60 GB planned"));
  EXPECT_THAT(text, HasSubstr("elapsed 14s  ETA 12s"));
}

TEST(WatchView, LinesFitTheTerminal) {
  WatchView view(NewJob());
  view.Apply(Step(1, 2.0, 1));
  for (const std::string& line : view.Draw(40, Style{true})) EXPECT_LE(DisplayWidth(line), 40);
}

TEST(WatchView, MessagesCannotSteerTheTerminal) {
  v1::Job job = NewJob();
  job.set_state_message("bad\033[2J");
  EXPECT_THAT(Text(WatchView(job)), Not(HasSubstr("\033")));
}

TEST(WatchView, NotesTellWarningsCheckpointsAndRequeues) {
  WatchView view(NewJob());
  v1::Event warning;
  warning.mutable_warning()->set_code("TRUNCATED_ROWS");
  warning.mutable_warning()->set_text("3 rows were cut");
  EXPECT_EQ(view.NoteFor(warning, Style{}), "warning TRUNCATED_ROWS: 3 rows were cut");
  v1::Event requeued = State(v1::RUNNING, v1::QUEUED, 1);
  requeued.mutable_state_changed()->set_message("the worker crashed (signal 9)");
  EXPECT_EQ(view.NoteFor(requeued, Style{}), "the worker crashed (signal 9)");
  EXPECT_EQ(view.NoteFor(Step(1, 1.0, 1), Style{}), "");
}

}  // namespace
}  // namespace finetuned::cli
