#include "engine/plan/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "engine/plan/auto_settings.h"
#include "engine/plan/rollout.h"
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

// A plan of every method, base, policy, number format and place.
std::vector<PlanInput> Various() {
  std::vector<PlanInput> all;
  for (const Method method : {Method::kSft, Method::kDpo, Method::kKto, Method::kGrpo, Method::kEvaluate}) {
    for (const BaseFormat base : {BaseFormat::kNf4, BaseFormat::kInt8, BaseFormat::kCompute}) {
      for (const char* policy : {"off", "on", "keep:4:10", "keep:0:32:4096"}) {
        for (const bool gpu : {false, true}) {
          PlanInput in = Llama8B();
          in.method = method;
          in.base = base;
          in.on_gpu = in.device.cudnn_attention = gpu;
          in.micro_batch_size = 2;
          EXPECT_TRUE(ParseCheckpointing(policy, &in));
          in.activation_offload = in.activation_checkpointing && base == BaseFormat::kInt8;
          in.deterministic = base == BaseFormat::kCompute;
          if (gpu && base == BaseFormat::kNf4) in.precision = MatmulPrecision::kInt8;
          if (method == Method::kGrpo) in.rollout = RolloutOf(16, in.max_seq_length, 256);
          all.push_back(in);
        }
      }
    }
  }
  return all;
}

void SetLength(PlanInput* in, int64_t length) {
  in->max_seq_length = length;
  if (in->rollout.sequences > 0) in->rollout.max_tokens = length;
}

// The rounding of the allocator steps down where a buffer becomes large enough for an allocation of its own.
int64_t Unrounded(const PlanInput& in) {
  int64_t sum = 0;
  for (const Buffer& b : PlanMemory(in).buffers) sum += b.name == "allocator_rounding" ? 0 : b.bytes;
  return sum;
}

TEST(MemoryPlan, IsMonotoneInBatchSequenceAndRankForEveryMethod) {
  for (const PlanInput& start : Various()) {
    PlanInput batch = start, length = start, rank = start;
    for (int step = 0; step < 12; ++step) {
      const PlanInput before[] = {batch, length, rank};
      batch.micro_batch_size += 1 + step % 3;
      SetLength(&length, length.max_seq_length + 100 + 300 * (step % 4));
      rank.lora_rank += 1 + 7 * (step % 3);
      int i = 0;
      for (const PlanInput& after : {batch, length, rank}) {
        EXPECT_GT(Unrounded(after), Unrounded(before[i])) << static_cast<int>(start.method) << " " << step << " " << i;
        EXPECT_GE(PlanHostMemory(after), PlanHostMemory(before[i]));
        ++i;
      }
    }
  }
}

TEST(MemoryPlan, EveryBufferHasANameAComponentAndBytes) {
  for (const PlanInput& in : Various()) {
    const MemoryPlan plan = PlanMemory(in);
    std::set<std::string> names;
    int64_t sum = 0;
    for (const Buffer& b : plan.buffers) {
      EXPECT_GT(b.bytes, 0) << b.name;
      EXPECT_EQ(std::count(Components().begin(), Components().end(), b.component), 1) << b.name;
      names.insert(b.name);
    }
    for (const std::string& c : Components()) sum += plan.component(c);
    EXPECT_EQ(sum, plan.total());
  }
}

TEST(MemoryPlan, RecomputeAndOffloadNeverNeedMore) {
  for (const PlanInput& start : Various()) {
    if (start.method == Method::kEvaluate) continue;
    PlanInput all = start, kept = start, none = start, offloaded = start;
    ASSERT_TRUE(ParseCheckpointing("off", &all));
    ASSERT_TRUE(ParseCheckpointing("keep:8:0", &kept));
    ASSERT_TRUE(ParseCheckpointing("on", &none));
    all.activation_offload = kept.activation_offload = none.activation_offload = false;
    offloaded = none;
    offloaded.activation_offload = true;
    EXPECT_LT(PlanMemory(kept).total(), PlanMemory(all).total());
    EXPECT_LT(PlanMemory(none).total(), PlanMemory(kept).total());
    EXPECT_LT(PlanMemory(offloaded).total(), PlanMemory(none).total());
  }
}

TEST(MemoryPlan, EvaluationNeedsLessThanTraining) {
  PlanInput in = Llama8B();
  const int64_t training = PlanMemory(in).total();
  in.method = Method::kEvaluate;
  const MemoryPlan plan = PlanMemory(in);
  EXPECT_LT(plan.total(), training);
  EXPECT_EQ(plan.component("gradients") + plan.component("optimizer"), 0);
  in.activation_checkpointing = true;
  EXPECT_EQ(PlanMemory(in).component("activations"), plan.component("activations"));
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
