// The plan against what the CPU's allocator hands out, over whole steps of the trainer. tests/bench/engine/plan_matrix
// is the same on a GPU.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "engine/plan/auto_settings.h"
#include "engine/plan/memory_plan.h"
#include "engine/train/trainer.h"
#include "tests/bench/engine/allocation_log.h"
#include "tests/bench/engine/one_step.h"
#include "tests/bench/engine/random_model.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

struct Setting {
  const char* method;
  bool nf4;
  const char* checkpointing;
  int64_t documents, length, rank;
  const char* optimizer = "adamw_8bit";
  bool evaluation = false;
};

class PlanMatrix : public testing::TestWithParam<Setting> {};

TEST_P(PlanMatrix, PeakIsWhatWasPlanned) {
  const Setting s = GetParam();
  c10::InferenceMode no_autograd;
  format::ModelConfig config = bench::Shape("smollm2-135m");
  config.num_hidden_layers = 4;
  config.vocab_size = 4096;
  const auto base = bench::RandomModel(config, {at::kCPU, at::kFloat, s.nf4 ? plan::BaseFormat::kNf4 : plan::BaseFormat::kCompute});
  job::TrainSpec spec;
  spec.method = s.method;
  spec.state_dir = parity::NewTemporaryDirectory("plan_matrix");
  spec.lora.rank = s.rank;
  spec.optimizer.kind = s.optimizer;
  spec.schedule.micro_batch_size = s.documents;
  spec.schedule.max_seq_length = s.length;
  plan::PlanInput policy;
  ASSERT_TRUE(plan::ParseCheckpointing(s.checkpointing, &policy));
  spec.activation_checkpointing = policy.activation_checkpointing;
  spec.keep_all_layers = policy.keep_all_layers;
  spec.keep_attention_layers = policy.keep_attention_layers;
  spec.activation_piece_rows = policy.piece_rows;
  spec.evaluation.before_training = s.evaluation;
  spec.base_quantization = s.nf4 ? "nf4" : "none";
  spec.grpo.group_size = 2;
  spec.grpo.max_completion_tokens = 4;
  spec.grpo.builtin_rewards = {{"length", 1, {{"max", "3"}}}};

  const bench::AllocationLog log;
  const bench::StepReport report = bench::RunOneStep(spec, *base);
  ASSERT_EQ(report.error, "");
  const plan::MemoryPlan plan = plan::PlanMemory(PlanInputOf(spec, *base));
  const auto planned = static_cast<double>(plan.total() - plan::DeviceConstants().cpu_process_bytes);
  const auto held = static_cast<double>(base->bytes() + log.peak(c10::DeviceType::CPU));
  EXPECT_LE(held, planned * 1.03);
  EXPECT_GE(held, planned * 0.94);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, PlanMatrix,
    testing::Values(
        Setting{"sft", true, "off", 1, 128, 8}, Setting{"sft", true, "on", 1, 128, 8},
        Setting{"sft", false, "off", 1, 128, 8}, Setting{"sft", false, "on", 1, 128, 8, "adamw"},
        Setting{"sft", true, "off", 4, 64, 16, "adamw"}, Setting{"sft", true, "on", 4, 64, 16, "adamw", true},
        Setting{"sft", true, "off", 2, 96, 64}, Setting{"sft", true, "on", 2, 96, 64},
        Setting{"sft", false, "off", 8, 32, 4}, Setting{"sft", true, "on", 8, 32, 4},
        Setting{"sft", true, "keep:1:2:64", 2, 96, 8}, Setting{"sft", true, "keep:0:4", 2, 96, 8},
        Setting{"dpo", true, "off", 1, 96, 8}, Setting{"dpo", false, "on", 2, 48, 8, "adamw", true},
        Setting{"dpo", true, "keep:2:1", 1, 96, 16}, Setting{"kto", true, "off", 2, 64, 8, "adamw_8bit", true},
        Setting{"kto", true, "on", 2, 96, 8}, Setting{"kto", false, "off", 4, 32, 8},
        Setting{"grpo", true, "off", 4, 48, 8}, Setting{"grpo", true, "on", 4, 64, 8},
        Setting{"grpo", false, "off", 4, 32, 16, "adamw", true}, Setting{"grpo", true, "keep:2:0", 2, 96, 8}));

}  // namespace
}  // namespace finetuned::train
