#include "server/metrics/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace finetuned::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Type and label names of each family of a text in Prometheus' format.
struct Family {
  std::string type;
  std::set<std::string> labels;
};
std::map<std::string, Family> Parse(std::istream& in) {
  std::map<std::string, Family> families;
  std::string line, current;
  while (std::getline(in, line)) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (absl::StartsWith(line, "# TYPE")) {
      current = words[2];
      families[current].type = words[3];
    } else if (!absl::StartsWith(line, "#") && !current.empty()) {
      const size_t open = line.find('{'), close = line.rfind('}');
      if (open == std::string::npos) continue;
      for (const absl::string_view pair : absl::StrSplit(line.substr(open + 1, close - open - 1), "\",")) {
        const std::string name(pair.substr(0, pair.find('=')));
        if (name != "le") families[current].labels.insert(name);
      }
    }
  }
  return families;
}

v1::Job SomeJob() {
  v1::Job job;
  job.set_name("jobs/a");
  job.set_display_name("support bot");
  job.mutable_spec()->mutable_sft();
  job.mutable_spec()->set_base_model("models/smollm2");
  job.mutable_memory()->set_weights_bytes(100);
  job.mutable_memory()->set_total_bytes(200);
  return job;
}

internal::v1::WorkerStep Step(int64_t step, double tokens, double trained) {
  internal::v1::WorkerStep proto;
  proto.set_step(step);
  auto& values = *proto.mutable_values();
  values["loss"] = 1.5;
  values["num_tokens"] = tokens;
  values["trained_tokens"] = trained;
  values["flops"] = 1e9;
  values["memory_peak_bytes"] = 190;
  return proto;
}

// Makes every family have a series.
void TouchAll(Metrics* metrics) {
  internal::v1::WorkerHello hello;
  hello.set_device("cuda:0 NVIDIA GeForce RTX 3090");
  hello.set_device_total_bytes(1000);
  hello.set_device_free_bytes(900);
  metrics->Device(hello, 950);
  metrics->Heartbeat({});
  metrics->JobSubmitted("sft");
  metrics->JobRejected("vram_budget_exceeded");
  metrics->AttemptStarted("submit");
  metrics->JobOnDevice(SomeJob());
  internal::v1::WorkerPlan plan;
  plan.set_total_steps(10);
  metrics->Plan("jobs/a", plan);
  internal::v1::WorkerStep step = Step(1, 100, 60);
  for (const char* key : {"rewards/margins", "rewards/accuracies", "kl", "entropy", "rewards/exact/mean",
                          "rollout/generate_time", "rollout/reward_time", "step_time", "checkpoint_time"}) {
    (*step.mutable_values())[key] = 0.5;
  }
  metrics->Step("jobs/a", step);
  internal::v1::WorkerStep eval;
  (*eval.mutable_values())["eval_loss"] = 2;
  metrics->Eval("jobs/a", eval);
  metrics->Checkpoint("jobs/a", absl::Now());
  metrics->AttemptMemory("jobs/a", 200);
  metrics->OutOfMemory();
  metrics->JobFinished("sft", v1::FAILED, v1::OUT_OF_DEVICE_MEMORY, absl::Seconds(5));
  metrics->QueueWait(absl::Seconds(1));
  metrics->JournalSync(0.001);
  metrics->SampleFirstToken(absl::Milliseconds(200));
  metrics->WatchOpened();
  metrics->WatchClosed("slow_consumer");
  metrics->Refresh(absl::Now());
}

TEST(Metrics, FamiliesHaveTheReferencesNamesTypesAndLabels) {
  std::ifstream file(absl::StrCat(FINETUNED_SHARED_DATA, "/../reference/metrics.txt"));
  if (!file) GTEST_SKIP() << "the reference metrics.txt is not here";
  const auto reference = Parse(file);
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  TouchAll(&metrics);
  std::istringstream text(metrics.Text());
  const auto ours = Parse(text);
  EXPECT_GE(ours.size(), 30u);
  for (const auto& [name, family] : ours) {
    const auto found = reference.find(name);
    ASSERT_NE(found, reference.end()) << name << " is not in the reference";
    EXPECT_EQ(family.type, found->second.type) << name;
    for (const std::string& label : family.labels) {
      EXPECT_TRUE(found->second.labels.contains(label)) << name << " has a label " << label;
    }
  }
}

TEST(Metrics, NoSeriesHasALabelOfTheScraper) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  TouchAll(&metrics);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("{job=")));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr(",job=")));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("instance=")));
}

TEST(Metrics, SeriesOfAJobGoSomeTimeAfterItLeft) {
  Metrics metrics({"0.1.0", "/tmp", absl::Seconds(10)});
  TouchAll(&metrics);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_train_loss{job_id=\"a\"} 1.5"));
  metrics.JobOffDevice("jobs/a");
  metrics.Refresh(absl::Now() + absl::Seconds(5));
  EXPECT_THAT(metrics.Text(), HasSubstr("job_id"));
  metrics.Refresh(absl::Now() + absl::Seconds(11));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("job_id")));
  // Late words of the worker do not bring them back.
  metrics.Step("jobs/a", Step(2, 1, 1));
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("job_id")));
}

TEST(Metrics, JobThatComesBackKeepsItsSeries) {
  Metrics metrics({"0.1.0", "/tmp", absl::Seconds(10)});
  metrics.JobOnDevice(SomeJob());
  metrics.JobOffDevice("jobs/a");
  metrics.JobOnDevice(SomeJob());
  metrics.Refresh(absl::Now() + absl::Hours(1));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_job_info{base_model=\"smollm2\",job_id=\"a\""));
}

TEST(Metrics, TokenCountersOnlyGrow) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  metrics.JobOnDevice(SomeJob());
  metrics.Step("jobs/a", Step(1, 100, 60));
  metrics.Step("jobs/a", Step(2, 200, 120));
  metrics.Step("jobs/a", Step(1, 100, 60));  // resumed from a checkpoint
  metrics.Step("jobs/a", Step(2, 200, 120));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_train_tokens_total{job_id=\"a\",kind=\"trained\"} 180"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_train_tokens_total{job_id=\"a\",kind=\"masked\"} 120"));
}

TEST(Metrics, WhatAMethodDoesNotReportHasNoSeries) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  metrics.JobOnDevice(SomeJob());
  metrics.Step("jobs/a", Step(1, 100, 60));
  for (const char* family : {"finetuned_preference", "finetuned_policy", "finetuned_rollout", "finetuned_checkpoint_write",
                             "finetuned_train_phase"}) {
    EXPECT_THAT(metrics.Text(), Not(HasSubstr(absl::StrCat("\n", family)))) << family;
  }
}

TEST(Metrics, PairsAreCountedByTheBatch) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  v1::Job job = SomeJob();
  job.mutable_resolved_spec()->mutable_schedule()->set_micro_batch_size(4);
  job.mutable_resolved_spec()->mutable_schedule()->set_gradient_accumulation_steps(2);
  metrics.JobOnDevice(job);
  internal::v1::WorkerStep step = Step(1, 100, 60);
  (*step.mutable_values())["rewards/accuracies"] = 0.75;
  (*step.mutable_values())["rewards/margins"] = 0.4;
  metrics.Step("jobs/a", step);
  metrics.Step("jobs/a", step);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_preference_pairs_total{job_id=\"a\",result=\"correct\"} 12"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_preference_pairs_total{job_id=\"a\",result=\"wrong\"} 4"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_preference_reward_margin{job_id=\"a\"} 0.4"));
}

TEST(Metrics, ARolloutIsCountedOnceForAllItsSteps) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  v1::Job job = SomeJob();
  job.mutable_resolved_spec()->mutable_grpo()->set_group_size(8);
  job.mutable_resolved_spec()->mutable_grpo()->set_prompts_per_rollout(4);
  metrics.JobOnDevice(job);
  internal::v1::WorkerStep step = Step(1, 100, 60);
  auto& values = *step.mutable_values();
  values["rollout/generate_time"] = 2.5;
  values["rewards/exact/mean"] = 0.25;
  values["rewards/zero_spread_groups"] = 1;
  values["completions/clipped_ratio"] = 0.25;
  values["completions/mean_length"] = 10;
  metrics.Step("jobs/a", step);
  metrics.Step("jobs/a", step);  // the second update on the same completions
  values["rollout/generate_time"] = 2.6;
  metrics.Step("jobs/a", step);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_rollout_groups_total{job_id=\"a\",spread=\"zero\"} 2"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_rollout_groups_total{job_id=\"a\",spread=\"some\"} 6"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_rollout_completions_total{finish_reason=\"length\",job_id=\"a\"} 16"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_rollout_tokens_total{job_id=\"a\"} 640"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_rollout_reward_mean{job_id=\"a\",reward=\"exact\"} 0.25"));
}

TEST(Metrics, StatesStartAtZeroAndFollowTheJobs) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_jobs{method=\"kto\",state=\"failed\"} 0"));
  metrics.JobState("sft", v1::JOB_STATE_UNSPECIFIED, v1::QUEUED);
  metrics.JobState("sft", v1::QUEUED, v1::PREPARING);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_jobs{method=\"sft\",state=\"queued\"} 0"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_jobs{method=\"sft\",state=\"preparing\"} 1"));
}

TEST(Metrics, AreServedOverHttp) {
  Metrics metrics({"0.1.0", "/tmp", absl::Minutes(5)});
  ASSERT_TRUE(metrics.Serve("127.0.0.1:0").ok());
  ASSERT_GT(metrics.port(), 0);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(metrics.port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  ASSERT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) answer.append(buffer, static_cast<size_t>(n));
  close(fd);
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("finetuned_ready"));
}

TEST(Metrics, AddressInUseIsAnError) {
  Metrics first({"0.1.0", "/tmp", absl::Minutes(5)});
  ASSERT_TRUE(first.Serve("127.0.0.1:0").ok());
  Metrics second({"0.1.0", "/tmp", absl::Minutes(5)});
  EXPECT_TRUE(absl::IsUnavailable(second.Serve(absl::StrCat("127.0.0.1:", first.port()))));
}

TEST(Metrics, PeakOfAGpuJobIsWhatItsProcessHeld) {
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  v1::Job job = SomeJob();
  v1::MemoryItem* context = job.mutable_memory()->add_items();
  context->set_name("cuda_context");
  context->set_bytes(30);
  metrics.JobOnDevice(job);
  internal::v1::WorkerStep step = Step(1, 100, 60);
  (*step.mutable_values())["memory_reserved_bytes"] = 160;
  metrics.Step("jobs/a", step);
  metrics.AttemptMemory("jobs/a", 200);
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_job_memory_peak_bytes{job_id=\"a\"} 190"));
  EXPECT_THAT(metrics.Text(), HasSubstr("finetuned_memory_prediction_ratio_sum 0.95"));
}

TEST(Metrics, RunThatWentOnWithLessMemoryIsARecoveredOutOfMemory) {
  Metrics metrics({"0.1.0", "/nonexistent", absl::Minutes(5)});
  metrics.Warning("jobs/a", "REPLANNED");
  EXPECT_THAT(metrics.Text(),
              HasSubstr("finetuned_gpu_out_of_memory_total{phase=\"training\",recovered=\"true\"} 1"));
}

}  // namespace
}  // namespace finetuned::metrics
