// A short run on the real model: what the quickstart does.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "engine/train/run.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

TEST(SmolLm2Run, LossFallsOnTheSampleRows) {
  job::TrainSpec spec;
  spec.base_model_path =
      std::string(FINETUNED_DEPS_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  spec.dataset_path = std::string(FINETUNED_SOURCE_DIR) + "/deploy/samples/identity_train.jsonl";
  for (const std::string& path : {spec.base_model_path, spec.dataset_path}) {
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  }
  spec.job_name = "smollm2";
  spec.base_model_name = "HuggingFaceTB/SmolLM2-135M-Instruct";
  spec.state_dir = parity::NewTemporaryDirectory("smollm2_run");
  spec.schedule.max_steps = 6;
  spec.schedule.micro_batch_size = 4;
  spec.schedule.max_seq_length = 512;
  spec.schedule.packing = false;
  spec.optimizer.learning_rate = 1e-3;
  parity::Recorder recorder;
  recorder.after_step = [&](int64_t step) {
    const auto& v = recorder.steps.back();
    std::printf("step %d: loss %.4f, %.2f s, %.0f tokens/s, %.0f MB\n", static_cast<int>(step),
                v.at("loss"), v.at("step_time"), v.at("tokens_per_second"),
                v.at("memory_peak_bytes") / 1e6);
    std::fflush(stdout);
  };
  job::RunControl control;
  const job::RunResult result = RunTraining(spec, recorder, control);
  ASSERT_EQ(result.outcome, job::Outcome::kDone) << result.reason << ": " << result.message;
  EXPECT_LT(recorder.steps.back()["loss"], recorder.steps.front()["loss"]);
}

}  // namespace
}  // namespace finetuned::train
