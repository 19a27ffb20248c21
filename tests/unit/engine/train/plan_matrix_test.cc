// The plan against what the CPU's allocator hands out, over whole steps of the trainer. tests/bench/engine/plan_matrix
// is the same on a GPU.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "engine/plan/memory_plan.h"
#include "engine/train/trainer.h"
#include "tests/bench/engine/allocation_log.h"
#include "tests/bench/engine/random_model.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

struct Setting {
  bool nf4, checkpointing;
  int64_t documents, length, rank;
  const char* optimizer;
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
  spec.lora.rank = s.rank;
  spec.optimizer.kind = s.optimizer;
  spec.schedule.micro_batch_size = s.documents;
  spec.schedule.max_seq_length = s.length;
  spec.activation_checkpointing = s.checkpointing;
  spec.base_quantization = s.nf4 ? "nf4" : "none";
  data::TokenizedDataset rows;
  for (int64_t i = 0; i < s.documents; ++i) {
    data::TokenizedRow& row = rows.rows.emplace_back();
    row.input_ids.assign(s.length, static_cast<int32_t>(i));
    row.trained.assign(s.length, 1);
  }
  job::RunControl control;
  parity::Recorder recorder;
  recorder.after_step = [&](int64_t step) { control.cancel = step == 2; };
  spec.schedule.max_steps = 3;
  TrainerInputs in;
  in.spec = &spec;
  in.base = base.get();
  in.train = &rows;
  in.observer = &recorder;
  in.control = &control;

  const bench::AllocationLog log;
  Trainer trainer(std::move(in));
  ASSERT_TRUE(trainer.Run(std::nullopt).ok());
  const plan::MemoryPlan plan = plan::PlanMemory(PlanInputOf(spec, *base));
  const auto planned = static_cast<double>(plan.total() - plan::DeviceConstants().cpu_process_bytes);
  const auto held = static_cast<double>(base->bytes() + log.peak(c10::DeviceType::CPU));
  EXPECT_LE(held, planned * 1.03);
  EXPECT_GE(held, planned * 0.94);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, PlanMatrix,
    testing::Values(Setting{true, false, 1, 128, 8, "adamw_8bit"}, Setting{true, true, 1, 128, 8, "adamw_8bit"},
                    Setting{false, false, 1, 128, 8, "adamw_8bit"}, Setting{false, true, 1, 128, 8, "adamw"},
                    Setting{true, false, 4, 64, 16, "adamw"}, Setting{true, true, 4, 64, 16, "adamw"},
                    Setting{true, false, 2, 96, 64, "adamw_8bit"}, Setting{true, true, 2, 96, 64, "adamw_8bit"},
                    Setting{false, false, 8, 32, 4, "adamw_8bit"}, Setting{true, true, 8, 32, 4, "adamw_8bit"}));

}  // namespace
}  // namespace finetuned::train
