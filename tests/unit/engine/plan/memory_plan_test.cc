#include "engine/plan/memory_plan.h"

#include <gtest/gtest.h>

namespace finetuned::plan {
namespace {

// Llama-3.1-8B shapes.
PlanInput Llama8B() {
  PlanInput in;
  format::ModelConfig& m = in.model;
  m.architecture = "llama";
  m.vocab_size = 128256;
  m.hidden_size = 4096;
  m.intermediate_size = 14336;
  m.num_hidden_layers = 32;
  m.num_attention_heads = 32;
  m.num_key_value_heads = 8;
  m.head_dim = 128;
  in.target_modules = {"all-linear"};
  return in;
}

TEST(MemoryPlan, CountsTheParametersOfLlama8B) {
  EXPECT_EQ(CountParameters(Llama8B().model), 8030261248);
  EXPECT_EQ(CountLoraParameters(Llama8B()), 41943040);
}

TEST(MemoryPlan, SumsEqualTheTotal) {
  const MemoryPlan plan = PlanMemory(Llama8B());
  int64_t sum = 0;
  for (const char* c :
       {"weights", "adapter", "gradients", "optimizer", "activations", "logits", "runtime"}) {
    EXPECT_GT(plan.component(c), 0) << c;
    sum += plan.component(c);
  }
  EXPECT_EQ(sum, plan.total());
}

TEST(MemoryPlan, GrowsWithBatchSequenceAndRank) {
  const int64_t base = PlanMemory(Llama8B()).total();
  for (auto change : {+[](PlanInput& in) { in.micro_batch_size += 1; },
                      +[](PlanInput& in) { in.max_seq_length += 1; },
                      +[](PlanInput& in) { in.lora_rank += 1; },
                      +[](PlanInput& in) { in.base = BaseFormat::kCompute; },
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

TEST(SuggestFitting, EverySuggestionFits) {
  PlanInput in = Llama8B();
  in.base = BaseFormat::kCompute;
  in.micro_batch_size = 16;
  in.max_seq_length = 4096;
  for (int64_t gb = 6; gb <= 80; gb += 2) {
    const int64_t budget = gb * 1'000'000'000;
    for (const Suggestion& s : SuggestFitting(in, budget)) {
      EXPECT_LE(s.total_bytes, budget);
      EXPECT_EQ(s.total_bytes, PlanMemory(s.input).total());
      EXPECT_FALSE(s.fields.empty());
    }
  }
  EXPECT_FALSE(SuggestFitting(in, 24'000'000'000).empty());
}

TEST(SuggestFitting, HopelessBudgetHasNoSuggestion) {
  EXPECT_TRUE(SuggestFitting(Llama8B(), 1'000'000'000).empty());
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
