#include "engine/plan/fall_back.h"

#include <gtest/gtest.h>

#include "tests/unit/engine/plan/inputs.h"

namespace finetuned::plan {
namespace {

TEST(NextPlan, RecomputesBeforeItMakesBatchesSmaller) {
  PlanInput in = Llama8B();
  in.micro_batch_size = 6;
  const auto first = NextPlan(in, 2, 0);
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->input.activation_checkpointing);
  EXPECT_EQ(first->input.micro_batch_size, 6);
  const auto second = NextPlan(first->input, first->accumulation, 0);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->input.micro_batch_size, 3);
  EXPECT_EQ(second->accumulation, 4);
  EXPECT_EQ(second->changes, "micro_batch_size 6 -> 3 with gradient_accumulation_steps 2 -> 4");
}

TEST(NextPlan, FitsAndKeepsTheRowsOfAStep) {
  for (int64_t batch = 1; batch <= 12; ++batch) {
    PlanInput in = Llama8B();
    in.micro_batch_size = batch;
    in.max_seq_length = 2048;
    for (int64_t gb = 6; gb <= 40; gb += 2) {
      const int64_t available = gb * 1'000'000'000;
      const auto next = NextPlan(in, 3, available);
      if (!next.has_value()) continue;
      EXPECT_LE(PlanMemory(next->input).total(), available);
      EXPECT_LT(PlanMemory(next->input).total(), PlanMemory(in).total());
      EXPECT_EQ(next->input.micro_batch_size * next->accumulation, 3 * batch);
    }
  }
}

TEST(NextPlan, NothingIsLeftBelowOneRowWithRecompute) {
  PlanInput in = Llama8B();
  in.activation_checkpointing = true;
  EXPECT_FALSE(NextPlan(in, 8, 0).has_value());
}

}  // namespace
}  // namespace finetuned::plan
