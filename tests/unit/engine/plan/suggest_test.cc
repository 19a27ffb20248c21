#include "engine/plan/suggest.h"

#include <gtest/gtest.h>

#include "engine/plan/rollout.h"
#include "tests/unit/engine/plan/inputs.h"

namespace finetuned::plan {
namespace {

PlanInput Large() {
  PlanInput in = Llama8B();
  in.base = BaseFormat::kCompute;
  in.optimizer = Optimizer::kAdamW;
  in.micro_batch_size = 16;
  in.max_seq_length = 4096;
  in.lora_rank = 64;
  return in;
}

TEST(SuggestFitting, EverySuggestionFits) {
  for (int64_t gb = 8; gb <= 80; gb += 2) {
    const int64_t budget = gb * 1'000'000'000;
    for (const Suggestion& s : SuggestFitting(Large(), budget, 0)) {
      EXPECT_LE(s.total_bytes, budget);
      EXPECT_EQ(s.total_bytes, PlanMemory(s.input).total());
      EXPECT_FALSE(s.fields.empty());
    }
    EXPECT_FALSE(SuggestFitting(Large(), budget, 0).empty()) << gb;
  }
}

TEST(SuggestFitting, FitsForEveryMethodAndHost) {
  for (const Method method : {Method::kSft, Method::kDpo, Method::kKto, Method::kGrpo}) {
    PlanInput in = Large();
    in.method = method;
    if (method == Method::kGrpo) in.rollout = RolloutOf(16, in.max_seq_length, 256);
    for (const int64_t host : {int64_t{0}, int64_t{20'000'000'000}, int64_t{1} << 40}) {
      for (int64_t gb = 10; gb <= 60; gb += 10) {
        for (const Suggestion& s : SuggestFitting(in, gb * 1'000'000'000, host)) {
          EXPECT_LE(PlanMemory(s.input).total(), gb * 1'000'000'000) << s.message;
          EXPECT_LE(PlanHostMemory(s.input), host) << s.message;
        }
      }
    }
  }
}

TEST(SuggestFitting, ChangesNoMoreSettingsThanNeeded) {
  PlanInput in = Llama8B();
  in.micro_batch_size = 8;
  in.max_seq_length = 2048;
  for (const Suggestion& s : SuggestFitting(in, 24'000'000'000, 0)) EXPECT_EQ(s.fields.size(), 1u) << s.message;
  // Nothing alone brings it below 9 GB; recompute and a smaller batch do, and the base stays what it is.
  const auto tight = SuggestFitting(in, 9'000'000'000, 0);
  ASSERT_FALSE(tight.empty());
  EXPECT_EQ(tight[0].fields, (std::vector<std::string>{"compute.activation_checkpointing", "schedule.micro_batch_size"}));
}

TEST(SuggestFitting, HopelessBudgetHasNoSuggestion) {
  EXPECT_TRUE(SuggestFitting(Llama8B(), 1'000'000'000, 0).empty());
}

}  // namespace
}  // namespace finetuned::plan
