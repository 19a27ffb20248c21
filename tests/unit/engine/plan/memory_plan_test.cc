#include "engine/plan/memory_plan.h"

#include <gtest/gtest.h>

#include "tests/unit/engine/plan/inputs.h"

namespace finetuned::plan {
namespace {

TEST(MemoryPlan, CountsTheParametersOfLlama8B) {
  EXPECT_EQ(CountParameters(Llama8B().model), 8030261248);
  EXPECT_EQ(CountLoraParameters(Llama8B()), 41943040);
}

TEST(MemoryPlan, SumsEqualTheTotal) {
  const MemoryPlan plan = PlanMemory(Llama8B());
  int64_t sum = 0;
  for (const std::string& c : Components()) {
    EXPECT_EQ(plan.component(c) > 0, c != "kv_cache") << c;
    sum += plan.component(c);
  }
  EXPECT_EQ(sum, plan.total());
}

TEST(MemoryPlan, GrowsWithBatchSequenceAndRank) {
  const int64_t base = PlanMemory(Llama8B()).total();
  for (auto change : {+[](PlanInput& in) { in.micro_batch_size += 1; },
                      +[](PlanInput& in) { in.max_seq_length += 1; },
                      +[](PlanInput& in) { in.lora_rank += 1; },
                      +[](PlanInput& in) { in.base = BaseFormat::kInt8; },
                      +[](PlanInput& in) { in.lora_dropout = true; },
                      +[](PlanInput& in) { in.method = Method::kDpo; },
                      +[](PlanInput& in) { in.optimizer = Optimizer::kAdamW; }}) {
    PlanInput in = Llama8B();
    change(in);
    EXPECT_GT(PlanMemory(in).total(), base);
  }
}

TEST(MemoryPlan, SmallerTargetListNeedsLess) {
  PlanInput in = Llama8B();
  in.target_modules = {"q_proj", "v_proj"};
  EXPECT_LT(PlanMemory(in).total(), PlanMemory(Llama8B()).total());
  EXPECT_EQ(CountLoraParameters(in), 32 * 16 * (2 * 4096 + 4096 + 1024));
}

TEST(LogitsChunk, StaysWithinItsBounds) {
  EXPECT_EQ(LogitsChunkRows(256), 1024);
  EXPECT_EQ(LogitsChunkRows(128256), 512);
  EXPECT_EQ(LogitsChunkRows(1 << 20), 128);
}

TEST(FormatGigabytes, PicksTheUnit) {
  EXPECT_EQ(FormatGigabytes(21'840'000'000), "21.8 GB");
  EXPECT_EQ(FormatGigabytes(35'200'000), "35.2 MB");
}

}  // namespace
}  // namespace finetuned::plan
