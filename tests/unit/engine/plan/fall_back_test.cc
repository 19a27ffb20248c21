#include "engine/plan/fall_back.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/engine/plan/inputs.h"

namespace finetuned::plan {
namespace {

TEST(NextPlan, RecomputesBeforeItMakesBatchesSmaller) {
  PlanInput in = Llama8B();
  in.micro_batch_size = 6;
  const auto first = NextPlan(in, 2, 0, 0);
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->input.activation_checkpointing);
  EXPECT_EQ(first->input.micro_batch_size, 6);
  const auto second = NextPlan(first->input, first->accumulation, 0, 0);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->input.micro_batch_size, 3);
  EXPECT_EQ(second->accumulation, 4);
  EXPECT_EQ(second->changes, "micro_batch_size 6 -> 3 with gradient_accumulation_steps 2 -> 4");
}

TEST(NextPlan, LetsGoOfStandingWeightsFirst) {
  PlanInput in = Llama8B();
  in.standing_layers = 12;
  const auto next = NextPlan(in, 1, 0, 0);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->input.standing_layers, 0);
  EXPECT_FALSE(next->input.activation_checkpointing);
  EXPECT_EQ(next->changes, "standing_layers 12 -> 0");
}

TEST(NextPlan, FitsAndKeepsTheRowsOfAStep) {
  for (int64_t batch = 1; batch <= 12; ++batch) {
    PlanInput in = Llama8B();
    in.micro_batch_size = batch;
    in.max_seq_length = 2048;
    for (int64_t gb = 6; gb <= 40; gb += 2) {
      const int64_t available = gb * 1'000'000'000;
      const auto next = NextPlan(in, 3, available, 0);
      if (!next.has_value()) continue;
      EXPECT_LE(PlanMemory(next->input).total(), available);
      EXPECT_LT(PlanMemory(next->input).total(), PlanMemory(in).total());
      EXPECT_EQ(next->input.micro_batch_size * next->accumulation, 3 * batch);
    }
  }
}

TEST(NextPlan, KeepsAsManyLayersAsFit) {
  PlanInput in = Llama8B();
  in.micro_batch_size = 4;
  const int64_t available = PlanMemory(in).total() - 1'000'000'000;
  const auto next = NextPlan(in, 1, available, 0);
  ASSERT_TRUE(next.has_value());
  EXPECT_GT(next->input.keep_all_layers, 20);
  EXPECT_EQ(next->changes, absl::StrCat("activation_checkpointing off -> keep:", next->input.keep_all_layers, ":0"));
  PlanInput more = next->input;
  ++more.keep_all_layers;
  EXPECT_GT(PlanMemory(more).total(), available);
}

TEST(NextPlan, OffloadsWhereTheHostHoldsIt) {
  PlanInput in = Llama8B();
  in.max_seq_length = 8192;
  in.activation_checkpointing = true;
  PlanInput offloaded = in;
  offloaded.activation_offload = true;
  const int64_t host = PlanHostMemory(offloaded);
  EXPECT_EQ(host, 31ll * 8192 * 4096 * 2);
  const auto next = NextPlan(in, 1, 0, host);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->changes, "activation_offload on");
  EXPECT_FALSE(NextPlan(in, 1, 0, host - 1).has_value());
}

TEST(NextPlan, NothingIsLeftBelowOneRowWithRecompute) {
  PlanInput in = Llama8B();
  in.activation_checkpointing = true;
  EXPECT_FALSE(NextPlan(in, 8, 0, 0).has_value());
}

}  // namespace
}  // namespace finetuned::plan
