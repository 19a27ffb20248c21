// Whole runs against TRL's SFTTrainer, and against themselves after an interruption.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/lora/peft_files.h"
#include "engine/train/trainer.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

job::TrainSpec SpecOf(const nlohmann::json& run, const lora::Options& lora) {
  const nlohmann::json& s = run["settings"];
  job::TrainSpec spec;
  spec.job_name = run["name"];
  spec.base_model_name = run["model"];
  spec.state_dir = NewTemporaryDirectory("trajectory_" + spec.job_name);
  spec.base_quantization = "none";
  spec.lora = {lora.rank, lora.alpha, lora.dropout, lora.use_rslora, {}};
  for (lora::Target t : lora.targets) spec.lora.target_modules.push_back(lora::TargetName(t));
  spec.optimizer.kind = s["optim"] == "adamw_torch" ? "adamw" : "adamw_8bit";
  spec.optimizer.learning_rate = s["learning_rate"];
  spec.optimizer.weight_decay = s["weight_decay"];
  spec.optimizer.max_grad_norm = s["max_grad_norm"];
  spec.optimizer.scheduler = s["lr_scheduler_type"];
  spec.optimizer.warmup_steps = s["warmup_steps"];
  spec.schedule.max_steps = s["max_steps"];
  spec.schedule.micro_batch_size = s["per_device_train_batch_size"];
  spec.schedule.gradient_accumulation_steps = s["gradient_accumulation_steps"];
  spec.schedule.packing = s["packing"];
  spec.schedule.shuffle = false;
  if (!s["max_length"].is_null()) spec.schedule.max_seq_length = s["max_length"];
  return spec;
}

class TrajectoryParity : public testing::TestWithParam<std::string> {
 protected:
  c10::InferenceMode no_autograd_;
};

TEST_P(TrajectoryParity, EqualsTrl) {
  const nlohmann::json golden = ReadGoldenJson("trajectories.json");
  for (const nlohmann::json& run : golden["runs"]) {
    if (run["name"] != GetParam()) continue;
    const auto base = LoadGoldenModel(run["model"], /*nf4=*/false);
    const auto start = LoadGoldenAdapter(run["adapter"], *base);
    const data::TokenizedDataset rows = DatasetFromJson(golden["rows"]);
    const job::TrainSpec spec = SpecOf(run, start->options());
    Recorder recorder;
    job::RunControl control;
    train::Trainer trainer({.spec = &spec, .base = base.get(), .train = &rows,
                            .observer = &recorder, .control = &control});
    trainer.adapter().parameters().copy_(start->parameters());
    const auto result = trainer.Run(std::nullopt);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(recorder.steps.size(), run["steps"].size());
    for (size_t i = 0; i < recorder.steps.size(); ++i) {
      auto& got = recorder.steps[i];
      const nlohmann::json& want = run["steps"][i];
      EXPECT_NEAR(got["loss"], want["loss"], 1e-3) << "step " << i + 1;
      EXPECT_NEAR(got["entropy"], want["entropy"], 1e-3) << "step " << i + 1;
      EXPECT_NEAR(got["mean_token_accuracy"], want["mean_token_accuracy"], 1e-3) << "step " << i + 1;
      EXPECT_NEAR(got["grad_norm"], want["grad_norm"], 5e-3) << "step " << i + 1;
      EXPECT_NEAR(got["learning_rate"], want["learning_rate"], 1e-12) << "step " << i + 1;
      EXPECT_EQ(got["num_tokens"], want["num_tokens"]) << "step " << i + 1;
      EXPECT_NEAR(got["epoch"], want["epoch"], 1e-9) << "step " << i + 1;
    }
    return;
  }
  FAIL() << "trajectories.json has no run " << GetParam();
}

INSTANTIATE_TEST_SUITE_P(Runs, TrajectoryParity,
                         testing::Values("padding_free", "accumulation", "packing", "cosine_tied",
                                         "adamw_8bit"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace finetuned::parity
