#include "engine/train/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/parity/parity_testing.h"

namespace finetuned::train {
namespace {

TEST(Schedule, RatesEqualTransformers) {
  std::vector<std::string> missing = SchedulerNames();
  for (const nlohmann::json& golden : parity::ReadGoldenJson("schedules.json")) {
    job::OptimizerOptions o;
    o.learning_rate = 3e-4;
    o.scheduler = golden["name"];
    o.warmup_steps = golden["warmup"];
    const nlohmann::json& kwargs = golden["kwargs"];
    o.num_cycles = kwargs.value("num_cycles", 0.0);
    o.min_lr_ratio = kwargs.value("min_lr_rate", kwargs.value("min_lr_ratio", 0.0));
    o.decay_steps = kwargs.value("num_decay_steps", 0);
    for (size_t t = 0; t < golden["rates"].size(); ++t) {
      EXPECT_NEAR(LearningRate(o, golden["total"], static_cast<int64_t>(t)), golden["rates"][t],
                  1e-15)
          << golden["name"] << " with warmup " << golden["warmup"] << " at " << t;
    }
    std::erase(missing, o.scheduler);
  }
  EXPECT_TRUE(missing.empty()) << "no golden for " << missing[0];
}

TEST(Schedule, CountsStepsAsTransformers) {
  job::ScheduleOptions s;
  s.epochs = 3;
  s.gradient_accumulation_steps = 4;
  EXPECT_EQ(TotalSteps(s, 8), 6);
  EXPECT_EQ(TotalSteps(s, 9), 9);  // the last window of an epoch is a step of its own
  s.epochs = 0.5;
  EXPECT_EQ(TotalSteps(s, 9), 2);
  s.max_steps = 7;
  EXPECT_EQ(TotalSteps(s, 9), 7);
}

TEST(Schedule, WarmupRatioRoundsUp) {
  job::OptimizerOptions o;
  o.warmup_ratio = 0.1;
  EXPECT_EQ(WarmupSteps(o, 31), 4);
  o.warmup_steps = 2;
  EXPECT_EQ(WarmupSteps(o, 31), 2);
}

}  // namespace
}  // namespace finetuned::train
