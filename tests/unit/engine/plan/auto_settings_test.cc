#include "engine/plan/auto_settings.h"

#include <gtest/gtest.h>

#include "engine/plan/shapes.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::plan {
namespace {

constexpr int64_t kGB = 1'000'000'000;

AutoRequest AllOpen(const std::string& shape, int64_t budget) {
  AutoRequest r;
  r.input.model = *FindShape(shape);
  r.open_micro_batch = r.open_accumulation = r.open_length = r.open_rank = true;
  r.open_base = r.open_checkpointing = true;
  r.model_max_length = r.input.model.max_position_embeddings;
  r.budget_bytes = budget;
  return r;
}

// 90 rows of 200 tokens, 10 of up to 3,000.
DataLengths Rows() {
  DataLengths d;
  d.rows = 100;
  d.tokens = 90 * 200 + 10 * 2500;
  d.longest = 3000;
  d.histogram.assign(13, 0);
  d.histogram[8] = 90;
  d.histogram[12] = 10;
  return d;
}

TEST(ChooseSettings, FitsWheneverAnythingDoes) {
  for (const std::string& shape : ShapeNames()) {
    for (int64_t gb = 1; gb <= 80; gb += 3) {
      const AutoSettings chosen = ChooseSettings(AllOpen(shape, gb * kGB));
      EXPECT_EQ(chosen.fits, PlanMemory(chosen.input).total() <= gb * kGB) << shape << gb;
      if (chosen.fits) continue;
      PlanInput smallest = chosen.input;
      smallest.micro_batch_size = 1;
      smallest.max_seq_length = 128;
      smallest.lora_rank = 8;
      smallest.base = BaseFormat::kNf4;
      smallest.activation_checkpointing = true;
      EXPECT_GT(PlanMemory(smallest).total(), gb * kGB) << shape << gb;
    }
  }
}

TEST(ChooseSettings, IsNeverSlowerWithMoreMemory) {
  AutoRequest r = AllOpen("llama-3.1-8b", 0);
  r.open_length = r.open_rank = false;
  double before = 0;
  for (int64_t gb = 8; gb <= 80; gb += 2) {
    r.budget_bytes = gb * kGB;
    const AutoSettings chosen = ChooseSettings(r);
    if (!chosen.fits) continue;
    EXPECT_GE(chosen.tokens_per_second, before * 0.995) << gb;
    before = chosen.tokens_per_second;
  }
  EXPECT_GT(before, 0);
}

// An NF4 base at 2x1024: with 40 GB all weights stand, and nowhere is that slower.
TEST(ChooseSettings, WeightsStandWhereThereIsRoom) {
  AutoRequest r = AllOpen("llama-3.1-8b", 0);
  r.open_base = r.open_length = r.open_rank = r.open_micro_batch = r.open_accumulation = false;
  r.open_standing = true;
  r.input.micro_batch_size = 2;
  int64_t standing = 0;
  for (int64_t gb = 8; gb <= 40; gb += 4) {
    r.budget_bytes = gb * kGB;
    const AutoSettings chosen = ChooseSettings(r);
    ASSERT_TRUE(chosen.fits) << gb;
    standing = chosen.input.standing_layers;
    AutoRequest closed = r;
    closed.open_standing = false;
    closed.input.standing_layers = 0;
    EXPECT_GE(chosen.tokens_per_second, ChooseSettings(closed).tokens_per_second * 0.995) << gb;
    const AutoChoice& choice = chosen.choices.back();
    EXPECT_EQ(choice.field, "quantization.standing_layers");
    EXPECT_EQ(choice.value, std::to_string(standing));
  }
  EXPECT_EQ(standing, 32);
}

TEST(ChooseSettings, NothingStandsOnTheCpuInTheComputeTypeOrWithDora) {
  for (int variant = 0; variant < 3; ++variant) {
    AutoRequest r = AllOpen("llama-3.2-1b", 40 * kGB);
    r.open_base = false;
    r.open_standing = true;
    if (variant == 0) r.input.on_gpu = false;
    if (variant == 1) r.input.base = BaseFormat::kCompute;
    if (variant == 2) r.input.use_dora = true;
    const AutoSettings chosen = ChooseSettings(r);
    EXPECT_EQ(PlannedStandingLayers(chosen.input), 0) << variant;
    for (const AutoChoice& choice : chosen.choices) EXPECT_NE(choice.field, "quantization.standing_layers") << variant;
  }
}

TEST(ChooseSettings, CoversTheLongestRowBeforeItGoesFaster) {
  AutoRequest r = AllOpen("llama-3.1-8b", 24 * kGB);
  r.data = Rows();
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.fits);
  EXPECT_EQ(chosen.input.max_seq_length, 3008);
  EXPECT_EQ(chosen.choices[0].field, "schedule.max_seq_length");
  EXPECT_EQ(chosen.choices[0].reason, "holds the longest row, 3000 tokens");
}

TEST(ChooseSettings, SaysHowManyRowsAreCutWhenTheLongestDoesNotFit) {
  AutoRequest r = AllOpen("llama-3.1-8b", 0);
  r.data = Rows();
  PlanInput tight = r.input;
  tight.lora_rank = 8;
  tight.max_seq_length = 2048;
  tight.activation_checkpointing = true;
  r.budget_bytes = PlanMemory(tight).total();
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.fits);
  EXPECT_GE(chosen.input.max_seq_length, 2048);
  EXPECT_LT(chosen.input.max_seq_length, 3000);
  PlanInput longer = chosen.input;
  longer.max_seq_length += 64;
  EXPECT_GT(PlanMemory(longer).total(), r.budget_bytes);
  EXPECT_EQ(chosen.choices[0].reason, "the longest that fits; up to 10 of 100 rows are longer and will be cut");
}

TEST(ChooseSettings, KeepsTheRowsOfAnOptimizerStep) {
  for (int64_t gb : {8, 12, 16, 24, 80}) {
    const AutoSettings chosen = ChooseSettings(AllOpen("llama-3.1-8b", gb * kGB));
    EXPECT_EQ(chosen.input.micro_batch_size * chosen.accumulation, kRowsPerStep);
  }
}

TEST(ChooseSettings, RecomputesNoMoreLayersThanTheMemoryAsksFor) {
  AutoRequest r = AllOpen("llama-3.1-8b", 24 * kGB);
  r.open_base = r.open_length = r.open_rank = r.open_micro_batch = r.open_accumulation = false;
  r.input.micro_batch_size = 4;
  r.input.max_seq_length = 2048;
  const double all = ChooseSettings(r).tokens_per_second;
  r.open_keep = true;
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.fits);
  EXPECT_TRUE(chosen.input.activation_checkpointing);
  EXPECT_GT(chosen.input.keep_all_layers, 0);
  EXPECT_LT(chosen.input.keep_all_layers, 32);
  EXPECT_GT(chosen.tokens_per_second, 1.05 * all);
  PlanInput read;
  EXPECT_TRUE(ParseCheckpointing(chosen.choices.at(0).value, &read));
  EXPECT_EQ(read.keep_all_layers, chosen.input.keep_all_layers);
  EXPECT_EQ(read.keep_attention_layers, chosen.input.keep_attention_layers);
}

// What took options of a bench on an H100 (docs/measurements.md: 9,377 tokens/s, 6,858 with everything recomputed).
TEST(ChooseSettings, LongRowsInFp8KeepWhatFits) {
  AutoRequest r;
  r.input.model = *FindShape("llama-3.1-8b");
  r.input.max_seq_length = 32768;
  r.input.precision = MatmulPrecision::kFp8;
  r.open_checkpointing = r.open_keep = r.open_offload = true;
  r.budget_bytes = 77 * kGB;
  r.host_bytes = 100 * kGB;
  r.device = FindDeviceSpeed("NVIDIA H100 80GB HBM3");
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.fits);
  EXPECT_GT(chosen.input.keep_all_layers, 4);
  EXPECT_EQ(chosen.input.keep_all_layers + chosen.input.keep_attention_layers, 32);
  EXPECT_GT(chosen.tokens_per_second, 8500);
}

TEST(ChooseSettings, OffloadsOnlyWhereTheHostHoldsIt) {
  AutoRequest r;
  r.input.model = *FindShape("llama-3.1-8b");
  r.input.max_seq_length = 65536;
  r.open_checkpointing = r.open_keep = r.open_offload = true;
  r.budget_bytes = 24 * kGB;
  AutoSettings chosen = ChooseSettings(r);
  EXPECT_FALSE(chosen.fits);
  EXPECT_FALSE(chosen.input.activation_offload);
  EXPECT_EQ(chosen.choices.back().reason, "would take 16.6 GB of host memory, of which 0.0 MB may be used");
  r.host_bytes = 17 * kGB;
  chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.fits);
  EXPECT_TRUE(chosen.input.activation_offload);
  EXPECT_LE(PlanHostMemory(chosen.input), r.host_bytes);
}

TEST(ParseCheckpointing, RefusesOtherWords) {
  PlanInput in;
  for (const char* word :
       {"", "auto", "yes", "keep", "keep:1", "keep:-1:2", "keep:a:b", "keep:1:2:3", "keep:1:2:0", "keep:1:2:4:4"}) {
    in.activation_checkpointing = true;
    EXPECT_FALSE(ParseCheckpointing(word, &in)) << word;
    EXPECT_FALSE(in.activation_checkpointing) << word;
  }
  for (const char* word : {"off", "on", "keep:1:2", "keep:0:0:8", "keep:3:0:4096"}) {
    EXPECT_TRUE(ParseCheckpointing(word, &in));
    EXPECT_EQ(CheckpointingName(in), word);
  }
  EXPECT_TRUE(ParseCheckpointing("off", &in));
  EXPECT_FALSE(in.activation_checkpointing);
}

TEST(ChooseSettings, ChangesNothingThatIsGiven) {
  AutoRequest r;
  r.input.model = *FindShape("llama-3.1-8b");
  r.input.micro_batch_size = 3;
  r.input.lora_rank = 5;
  r.accumulation = 7;
  r.budget_bytes = 10 * kGB;
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_TRUE(chosen.choices.empty());
  EXPECT_EQ(chosen.input.micro_batch_size, 3);
  EXPECT_EQ(chosen.input.lora_rank, 5);
  EXPECT_EQ(chosen.accumulation, 7);
  EXPECT_FALSE(chosen.input.activation_checkpointing);
}

TEST(ChooseSettings, EveryOpenSettingHasAReason) {
  AutoRequest r = AllOpen("llama-3.1-8b", 24 * kGB);
  r.open_offload = true;
  const AutoSettings chosen = ChooseSettings(r);
  EXPECT_EQ(chosen.choices.size(), 7u);
  for (const AutoChoice& c : chosen.choices) EXPECT_FALSE(c.value.empty() || c.reason.empty()) << c.field;
}

// What users of a 24 GB card ask for.
struct Wish {
  const char* shape;
  int64_t batch, length, rank, gb;
};
TEST(PlanMemory, HoldsTheRowsThatA24GBCardIsBoughtFor) {
  for (const Wish& w : {Wish{"llama-2-7b", 2, 1024, 32, 24}, Wish{"llama-2-13b", 1, 512, 16, 24},
                        Wish{"internlm2-20b", 1, 256, 8, 24}, Wish{"llama-3.2-1b", 4, 2048, 16, 24},
                        Wish{"qwen2.5-32b", 1, 256, 8, 24}}) {
    PlanInput in;
    in.model = *FindShape(w.shape);
    in.micro_batch_size = w.batch;
    in.max_seq_length = w.length;
    in.lora_rank = w.rank;
    in.activation_checkpointing = true;
    EXPECT_LE(PlanMemory(in).total(), w.gb * kGB) << w.shape;
  }
}

}  // namespace
}  // namespace finetuned::plan
