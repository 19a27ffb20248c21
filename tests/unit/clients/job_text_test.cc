#include "clients/cli/job_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Job NewJob(const std::string& name, v1::JobState state) {
  v1::Job job;
  job.set_name("jobs/" + name);
  job.set_state(state);
  job.mutable_spec()->mutable_sft();
  job.mutable_spec()->set_base_model("models/smollm2");
  job.mutable_create_time()->set_seconds(1000);
  return job;
}

v1::Job Running() {
  v1::Job job = NewJob("bot", v1::RUNNING);
  job.mutable_progress()->set_step(3);
  job.mutable_progress()->set_total_steps(10);
  job.mutable_progress()->mutable_remaining()->set_seconds(130);
  auto& metrics = *job.mutable_progress()->mutable_latest_metrics();
  metrics["loss"] = 1.25;
  metrics["tokens_per_second"] = 4321;
  metrics["memory_peak_bytes"] = 3.2e9;
  job.mutable_memory()->set_total_bytes(3'500'000'000);
  return job;
}

v1::ServerInfo Info() {
  v1::ServerInfo info;
  info.set_version("0.1.0");
  info.set_worker_state("busy");
  info.set_accepting_jobs(true);
  info.mutable_start_time()->set_seconds(1000);
  v1::Device* gpu = info.add_devices();
  gpu->set_product("NVIDIA GeForce RTX 3090");
  gpu->set_memory_total_bytes(24'000'000'000);
  gpu->set_memory_free_bytes(14'000'000'000);
  gpu->set_utilization_ratio(0.97);
  gpu->set_power_watts(312);
  gpu->set_power_limit_watts(350);
  return info;
}

std::string Top(const std::vector<v1::Job>& jobs, int height = 100) {
  return absl::StrJoin(TopView(Info(), jobs, 1060, 100, height, Style{}), "\n");
}

TEST(JobTable, OneLineAJob) {
  const std::string table = JobTable({Running(), NewJob("next", v1::QUEUED)}, 1060, Style{});
  EXPECT_THAT(table, HasSubstr("bot   sft     smollm2  RUNNING  3/10  30%    1.2500  1m 00s ago"));
  EXPECT_THAT(table, HasSubstr("next  sft     smollm2  QUEUED   #0 in queue"));
}

TEST(TopView, ShowsDeviceJobAndQueueInItsOrder) {
  v1::Job second = NewJob("second", v1::QUEUED), first = NewJob("first", v1::QUEUED);
  second.mutable_progress()->set_queue_position(2);
  first.mutable_progress()->set_queue_position(1);
  const std::string text = Top({second, first, Running(), NewJob("old", v1::FAILED)});
  EXPECT_THAT(text, HasSubstr("finetuned 0.1.0  up 1m 00s  worker busy"));
  EXPECT_THAT(text, HasSubstr("GPU 0  NVIDIA GeForce RTX 3090  97% busy  312 W of 350 W"));
  EXPECT_THAT(text, HasSubstr("10.00 GB of 24.00 GB"));
  EXPECT_THAT(text, HasSubstr("3/10 steps 30.0%  ETA 2m 10s"));
  EXPECT_THAT(text, HasSubstr("loss 1.2500  4,321 tokens/s"));
  EXPECT_THAT(text, HasSubstr("3.20 GB peak of 3.50 GB planned"));
  EXPECT_LT(text.find("first "), text.find("second "));
  EXPECT_LT(text.find("second "), text.find("old "));
}

TEST(TopView, FieldsTheDriverDoesNotTellAreLeftOut) {
  v1::ServerInfo info = Info();
  info.mutable_devices(0)->clear_utilization_ratio();
  info.mutable_devices(0)->clear_power_watts();
  const std::string text = absl::StrJoin(TopView(info, {}, 1060, 100, 100, Style{}), "\n");
  EXPECT_THAT(text, Not(HasSubstr("busy  ")));
  EXPECT_THAT(text, HasSubstr("no job has the device"));
}

TEST(TopView, FitsTheScreen) {
  const auto lines = TopView(Info(), std::vector<v1::Job>(50, Running()), 1060, 40, 12, Style{true});
  EXPECT_EQ(lines.size(), 12u);
  for (const std::string& line : lines) EXPECT_LE(DisplayWidth(line), 40);
}

TEST(EventLine, TellsKindAndContent) {
  v1::Event event;
  event.mutable_metrics()->set_step(7);
  (*event.mutable_metrics()->mutable_values())["loss"] = 0.5;
  (*event.mutable_metrics()->mutable_values())["epoch"] = 1;
  EXPECT_THAT(EventLine(event, Style{}), HasSubstr("step 7  epoch 1  loss 0.5"));
  v1::Event state;
  state.mutable_state_changed()->set_from(v1::RUNNING);
  state.mutable_state_changed()->set_to(v1::FAILED);
  state.mutable_state_changed()->set_message("it\033[2J broke");
  EXPECT_THAT(EventLine(state, Style{}), HasSubstr("RUNNING -> FAILED  it\\x1b[2J broke"));
}

}  // namespace
}  // namespace finetuned::cli
