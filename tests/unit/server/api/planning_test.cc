// What PlanJob and CreateJob make of a card's memory.
#include <gmock/gmock.h>

#include <map>
#include <string>

#include "absl/time/clock.h"
#include "api_testing.h"

namespace finetuned::api {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kTotal = int64_t{24} << 30;

class PlanningApi : public ApiTest {
 protected:
  v1::JobPlan Plan(const v1::Job& job) {
    v1::PlanJobRequest request;
    *request.mutable_job() = job;
    v1::JobPlan plan;
    auto context = Context();
    status_ = jobs_->PlanJob(context.get(), request, &plan);
    return plan;
  }
  v1::JobPlan PlanGood(const v1::Job& job) {
    v1::JobPlan plan = Plan(job);
    EXPECT_TRUE(status_.ok()) << status_.error_message();
    return plan;
  }
  // A model of which there is no file.
  static v1::Job Shape(const std::string& name, int64_t vram) {
    v1::Job job;
    job.mutable_spec()->set_base_model("shapes/" + name);
    job.mutable_spec()->mutable_sft();
    job.mutable_scheduling()->set_vram_limit_bytes(vram);
    return job;
  }
  // What the driver says: `used` bytes, of them `ours` of the worker's process.
  void DriverSays(double used, double ours) {
    metrics::GpuReading gpu;
    gpu.product = "NVIDIA GeForce RTX 3090";
    gpu.memory_total_bytes = static_cast<double>(kTotal);
    gpu.memory_used_bytes = used;
    if (ours > 0) gpu.process_bytes[12345] = ours;
    metrics_->Gpus({gpu}, absl::Now());
  }

  grpc::Status status_;
  int64_t budget_ = 0;  // worker.vram_budget_bytes of a GPU
};

class GpuPlanningApi : public PlanningApi {
 protected:
  std::unique_ptr<FakeWorker> MakeWorker() override {
    return std::make_unique<FakeWorker>("cuda:0 NVIDIA GeForce RTX 3090", kTotal);
  }
  void Configure(config::Config* config) override { config->worker.vram_budget_bytes = budget_; }
  void WaitForDevice() {
    while (!manager_->Worker().hello.has_value()) absl::SleepFor(absl::Milliseconds(5));
  }
};

TEST_F(PlanningApi, BytesOfTheBaseFollowItsFormat) {
  const auto weights = [&](const std::string& base, bool double_quant) {
    v1::Job job = Shape("llama-3.1-8b", int64_t{80} << 30);
    job.mutable_spec()->mutable_quantization()->set_base(base);
    job.mutable_spec()->mutable_quantization()->set_double_quant(double_quant);
    return PlanGood(job).memory().weights_bytes();
  };
  EXPECT_EQ(weights("nf4", true), weights("fp4", true));
  EXPECT_EQ(weights("int8", true), weights("fp8", true));
  // A float32 scale for each of the rows, or for 64 weights.
  const int64_t linears = 6'979'321'856, rows = 1'376'256;
  EXPECT_EQ(weights("int8", true) - weights("nf4", false), linears + 4 * rows - (linears / 2 + linears / 16));
}

TEST_F(GpuPlanningApi, BudgetIsWhatOtherProcessesLeave) {
  WaitForDevice();
  const v1::Job job = GoodJob().job();
  EXPECT_EQ(PlanGood(job).memory().budget_bytes(), kTotal - static_cast<int64_t>(0.03 * kTotal));
  DriverSays(9e9, 3e9);
  const v1::JobPlan shared = PlanGood(job);
  EXPECT_EQ(shared.memory().other_processes_bytes(), 6'000'000'000);
  EXPECT_EQ(shared.memory().budget_bytes(), kTotal - 6'000'000'000 - static_cast<int64_t>(0.03 * kTotal));
  EXPECT_EQ(shared.memory().device_free_bytes(), kTotal - 9'000'000'000);
}

TEST_F(PlanningApi, AnNf4HeadSavesMemoryAndNeedsAHeadOfItsOwn) {
  v1::Job job = Shape("llama-3.1-8b", kTotal);
  const int64_t dense = PlanGood(job).memory().weights_bytes();
  job.mutable_spec()->mutable_quantization()->set_lm_head("nf4");
  EXPECT_GT(dense - PlanGood(job).memory().weights_bytes(), 750'000'000);
  job.mutable_spec()->set_base_model("shapes/smollm2-135m");
  Plan(job);
  EXPECT_EQ(status_.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status_.error_message(), HasSubstr("quantization.lm_head nf4 needs a head of its own"));
}

TEST_F(GpuPlanningApi, MicroBatchesFillTheCardAndAlphaFollowsTheRank) {
  WaitForDevice();
  const v1::JobPlan plan = PlanGood(GoodJob().job());
  EXPECT_TRUE(plan.admissible());
  EXPECT_EQ(plan.resolved_spec().schedule().micro_batch_size(), 8);
  EXPECT_EQ(plan.resolved_spec().lora().alpha(), 2.0 * plan.resolved_spec().lora().rank());
  // The rows are short: the default of 1024 tokens would only waste memory.
  EXPECT_LE(plan.dataset_stats().max_tokens(), plan.resolved_spec().schedule().max_seq_length());
  EXPECT_EQ(plan.dataset_stats().truncated_rows(), 0);
  EXPECT_EQ(plan.resolved_spec().schedule().max_seq_length(), 128);
  EXPECT_GT(plan.estimated_tokens_per_second(), 0);
  EXPECT_GT(plan.estimated_duration().seconds() + plan.estimated_duration().nanos(), 0);
  for (const auto& choice : plan.choices()) EXPECT_FALSE(choice.reason().empty()) << choice.field();
}

class LimitedApi : public GpuPlanningApi {
 protected:
  LimitedApi() { budget_ = 18'000'000'000; }
};

TEST_F(LimitedApi, WorkerIsToldTheLeastLimit) {
  v1::CreateJobRequest request = GoodJob();
  request.mutable_job()->mutable_scheduling()->set_vram_limit_bytes(20'000'000'000);
  Create(request);
  EXPECT_EQ(worker_->WaitForRun().memory_limit_bytes(), 18'000'000'000);
}

class MeasuredDeviceApi : public GpuPlanningApi {
 protected:
  std::unique_ptr<FakeWorker> MakeWorker() override {
    auto worker = GpuPlanningApi::MakeWorker();
    worker->Measured(333'000'000, 9'000'000);
    return worker;
  }
};

TEST_F(MeasuredDeviceApi, PlansRestOnWhatTheWorkerMeasured) {
  WaitForDevice();
  const v1::JobPlan plan = PlanGood(GoodJob().job());
  EXPECT_TRUE(plan.memory().measured());
  std::map<std::string, int64_t> items;
  for (const auto& item : plan.memory().items()) items[item.name()] = item.bytes();
  EXPECT_EQ(items["cuda_context"], 333'000'000);
  EXPECT_EQ(items["library_workspaces"], 9'000'000);
}

class NoWorkerYetApi : public PlanningApi {
 protected:
  void Configure(config::Config* config) override { config->worker.prestart = false; }
};

TEST_F(NoWorkerYetApi, DriverTellsTheMemoryBeforeTheFirstWorker) {
  DriverSays(1e9, 0);
  const v1::JobPlan plan = PlanGood(GoodJob().job());
  EXPECT_EQ(plan.resolved_spec().compute().device(), "cuda");
  EXPECT_EQ(plan.memory().other_processes_bytes(), 1'000'000'000);
  EXPECT_EQ(plan.memory().budget_bytes(), kTotal - 1'000'000'000 - static_cast<int64_t>(0.03 * kTotal));
}

TEST_F(PlanningApi, ShapeOfAModelIsPlannedForACardThatIsNotHere) {
  const v1::JobPlan plan = PlanGood(Shape("llama-3.1-8b", 24'000'000'000));
  EXPECT_TRUE(plan.admissible());
  EXPECT_EQ(plan.resolved_spec().compute().device(), "cuda");
  EXPECT_EQ(plan.resolved_spec().compute().dtype(), "bf16");
  EXPECT_LE(plan.memory().total_bytes(), 24'000'000'000);
  EXPECT_GT(plan.estimated_tokens_per_second(), 500);
  EXPECT_THAT(plan.warnings(), Contains(HasSubstr("RTX 3090")));
  std::vector<std::string> fields;
  for (const auto& choice : plan.choices()) fields.push_back(choice.field());
  for (const char* field : {"schedule.micro_batch_size", "schedule.max_seq_length", "lora.rank", "quantization.base",
                            "schedule.gradient_accumulation_steps", "compute.activation_checkpointing"}) {
    EXPECT_THAT(fields, Contains(field));
  }
}

TEST_F(PlanningApi, EveryMethodIsPlannedFromAShapeAlone) {
  std::map<std::string, v1::MemoryEstimate> memory;
  for (const char* method : {"sft", "dpo", "kto", "grpo"}) {
    v1::Job job = Shape("llama-3.1-8b", 24'000'000'000);
    v1::JobSpec* spec = job.mutable_spec();
    if (method == std::string("dpo")) spec->mutable_dpo();
    if (method == std::string("kto")) spec->mutable_kto();
    if (method == std::string("grpo")) spec->mutable_grpo()->set_group_size(16);
    spec->mutable_schedule()->set_micro_batch_size(1);
    spec->mutable_schedule()->set_gradient_accumulation_steps(16);
    spec->mutable_compute()->set_activation_checkpointing("on");
    const v1::JobPlan plan = PlanGood(job);
    EXPECT_TRUE(plan.admissible()) << method;
    memory[method] = plan.memory();
  }
  EXPECT_GT(memory["dpo"].activation_bytes(), memory["sft"].activation_bytes());
  EXPECT_GT(memory["kto"].logits_bytes(), memory["sft"].logits_bytes());
  EXPECT_GT(memory["grpo"].kv_cache_bytes(), 1'000'000'000);
  EXPECT_EQ(memory["sft"].kv_cache_bytes(), 0);
}

TEST_F(PlanningApi, RecomputeLeavesOutWhatFitsAndIsAcceptedAsItIsWritten) {
  v1::Job job = Shape("llama-3.1-8b", 24'000'000'000);
  job.mutable_spec()->mutable_schedule()->set_micro_batch_size(4);
  job.mutable_spec()->mutable_schedule()->set_max_seq_length(2048);
  job.mutable_spec()->mutable_quantization()->set_base("nf4");
  const v1::JobPlan plan = PlanGood(job);
  EXPECT_TRUE(plan.admissible());
  const std::string word = plan.resolved_spec().compute().activation_checkpointing();
  EXPECT_THAT(word, testing::StartsWith("keep:"));
  *job.mutable_spec() = plan.resolved_spec();
  const v1::JobPlan again = PlanGood(job);
  EXPECT_EQ(again.memory().total_bytes(), plan.memory().total_bytes());
  EXPECT_EQ(again.resolved_spec().compute().activation_checkpointing(), word);
  job.mutable_spec()->mutable_compute()->set_activation_checkpointing("keep:1:2:3");
  Plan(job);
  EXPECT_EQ(status_.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status_.error_message(), HasSubstr("must be auto, on, off, keep:A:B or keep:A:B:R"));
}

TEST_F(PlanningApi, WeightsStandWhereTheyFitAndAreAcceptedAsWritten) {
  v1::Job job = Shape("llama-3.1-8b", 24'000'000'000);
  job.mutable_spec()->mutable_schedule()->set_micro_batch_size(1);
  job.mutable_spec()->mutable_schedule()->set_max_seq_length(1024);
  v1::QuantizationSpec* quantization = job.mutable_spec()->mutable_quantization();
  quantization->set_base("nf4");
  const v1::JobPlan plan = PlanGood(job);
  const int32_t standing = plan.resolved_spec().quantization().standing_layers();
  EXPECT_GT(standing, 0);
  EXPECT_LE(plan.memory().total_bytes(), 24'000'000'000);
  quantization->set_standing_layers(standing);
  EXPECT_EQ(PlanGood(job).memory().total_bytes(), plan.memory().total_bytes());
  quantization->set_standing_layers(0);
  const v1::JobPlan none = PlanGood(job);
  EXPECT_LT(none.memory().total_bytes(), plan.memory().total_bytes() - int64_t{standing} * 400'000'000);
  EXPECT_LT(none.estimated_tokens_per_second(), plan.estimated_tokens_per_second());
  quantization->set_standing_layers(32);
  job.mutable_scheduling()->set_vram_limit_bytes(14'000'000'000);
  const v1::JobPlan all = PlanGood(job);
  EXPECT_FALSE(all.admissible());
  EXPECT_THAT(all.suggestions(0).message(), HasSubstr("set quantization.standing_layers 0"));
  job.mutable_spec()->mutable_lora()->set_use_dora(true);
  Plan(job);
  EXPECT_THAT(status_.error_message(), HasSubstr("must be 0 with lora.use_dora"));
}

TEST_F(PlanningApi, OffloadBeyondTheHostsMemoryIsRefused) {
  v1::Job job = Shape("llama-3.1-8b", 80'000'000'000);
  job.mutable_spec()->mutable_schedule()->set_micro_batch_size(1);
  job.mutable_spec()->mutable_schedule()->set_max_seq_length(131072);
  job.mutable_spec()->mutable_compute()->set_activation_checkpointing("on");
  job.mutable_spec()->mutable_compute()->set_activation_offload("on");
  const v1::JobPlan plan = PlanGood(job);
  EXPECT_FALSE(plan.admissible());
  EXPECT_EQ(plan.memory().host_bytes(), 31ll << 30);
  EXPECT_THAT(plan.problems(0).message(), HasSubstr("needs 33.3 GB of pinned host memory, 22.4 GB of this host's free "
                                                    "memory may be used"));
  job.mutable_spec()->mutable_compute()->clear_activation_offload();
  EXPECT_TRUE(PlanGood(job).admissible());
}

TEST_F(PlanningApi, WhatNoSettingCanHoldIsRefusedWithoutASuggestion) {
  const v1::JobPlan plan = PlanGood(Shape("llama-3.1-70b", 24'000'000'000));
  EXPECT_FALSE(plan.admissible());
  EXPECT_THAT(plan.problems(0).message(), HasSubstr("no smaller setting fits either"));
  EXPECT_THAT(plan.suggestions(), IsEmpty());
}

TEST_F(PlanningApi, SuggestionsKeepTheRowsOfAnOptimizerStep) {
  v1::Job job = Shape("llama-3.1-8b", 12'000'000'000);
  job.mutable_spec()->mutable_schedule()->set_micro_batch_size(8);
  job.mutable_spec()->mutable_schedule()->set_gradient_accumulation_steps(2);
  job.mutable_spec()->mutable_schedule()->set_max_seq_length(2048);
  job.mutable_spec()->mutable_compute()->set_activation_checkpointing("on");
  job.mutable_spec()->mutable_compute()->set_activation_offload("off");
  const v1::JobPlan plan = PlanGood(job);
  ASSERT_FALSE(plan.admissible());
  ASSERT_GT(plan.suggestions_size(), 0);
  for (const auto& suggestion : plan.suggestions()) {
    EXPECT_LE(suggestion.total_bytes(), 12'000'000'000) << suggestion.message();
    const auto& schedule = suggestion.proposed().schedule();
    EXPECT_EQ(schedule.micro_batch_size() * schedule.gradient_accumulation_steps(), 16);
  }
}

TEST_F(PlanningApi, UnknownShapesAreNamed) {
  Plan(Shape("llama-9", 24'000'000'000));
  EXPECT_EQ(status_.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status_.error_message(), HasSubstr("llama-3.1-8b"));
}

}  // namespace
}  // namespace finetuned::api
