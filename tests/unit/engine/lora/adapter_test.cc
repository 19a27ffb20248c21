#include "engine/lora/adapter.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "engine/lora/peft_files.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::lora {
namespace {

format::ModelConfig TinyConfig() {
  format::ModelConfig m;
  m.hidden_size = 64;
  m.intermediate_size = 128;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 4;
  m.num_key_value_heads = 2;
  m.head_dim = 16;
  return m;
}

TEST(Adapter, AllLinearCoversSevenLinearsOfEachLayer) {
  c10::InferenceMode no_autograd;
  Adapter adapter(TinyConfig(), {.rank = 4, .targets = *ParseTargets({"all-linear"})}, at::kCPU,
                  at::kFloat);
  EXPECT_EQ(adapter.sites().size(), 14u);
  EXPECT_EQ(adapter.parameters().numel(), 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192 + 192));
  // A matrices of fused linears are adjacent: one product serves all three.
  const Group& qkv = adapter.group(1, GroupKind::kQkv);
  EXPECT_EQ(qkv.ranks(), 12);
  EXPECT_EQ(qkv.compute_a_GI.narrow(0, 4, 4).data_ptr<float>(),
            qkv.sites[1].a_RI.data_ptr<float>());
}

TEST(Adapter, InitialisationIsPeftsAndSeeded) {
  c10::InferenceMode no_autograd;
  const Options options{.rank = 64, .targets = {Target::kQ, Target::kDown}};
  Adapter a(TinyConfig(), options, at::kCPU, at::kFloat), b(TinyConfig(), options, at::kCPU, at::kFloat);
  a.Initialize(42);
  b.Initialize(42);
  EXPECT_TRUE(at::equal(a.parameters(), b.parameters()));
  b.Initialize(43);
  EXPECT_FALSE(at::equal(a.parameters(), b.parameters()));
  for (const Site& site : a.sites()) {
    const double bound = 1 / std::sqrt(static_cast<double>(site.in));
    EXPECT_EQ(site.b_OR.abs().max().item<float>(), 0);
    EXPECT_LE(site.a_RI.abs().max().item<double>(), bound);
    EXPECT_NEAR(site.a_RI.mean().item<double>(), 0, 0.05 * bound);
    EXPECT_NEAR(site.a_RI.std().item<double>(), bound / std::sqrt(3.0), 0.03 * bound);
  }
}

TEST(Adapter, UnknownTargetIsNamed) {
  const auto parsed = ParseTargets({"q_proj", "lm_head"});
  EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr("\"lm_head\""));
}

TEST(PeftFiles, SavedAdapterLoadsWithTheSameBytes) {
  c10::InferenceMode no_autograd;
  const Options options{.rank = 3, .alpha = 7.5, .dropout = 0.05, .use_rslora = true,
                        .targets = {Target::kK, Target::kGate, Target::kUp}};
  Adapter saved(TinyConfig(), options, at::kCPU, at::kFloat);
  saved.Initialize(1);
  saved.parameters().add_(0.25);
  const std::string directory = parity::NewTemporaryDirectory("peft_round_trip");
  ASSERT_TRUE(SavePeft(saved, {"base", "title"}, directory).ok());
  const auto read = ReadPeftConfig(directory);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->rank, 3);
  EXPECT_EQ(read->alpha, 7.5);
  EXPECT_EQ(read->dropout, 0.05);
  EXPECT_TRUE(read->use_rslora);
  EXPECT_EQ(read->targets, options.targets);
  Adapter loaded(TinyConfig(), *read, at::kCPU, at::kFloat);
  ASSERT_TRUE(LoadPeftWeights(directory, &loaded).ok());
  EXPECT_TRUE(at::equal(saved.parameters(), loaded.parameters()));
}

TEST(PeftFiles, WeightsOfAnotherShapeAreRefusedByName) {
  c10::InferenceMode no_autograd;
  const std::string directory = parity::NewTemporaryDirectory("peft_shape");
  Adapter saved(TinyConfig(), {.rank = 2, .targets = {Target::kQ}}, at::kCPU, at::kFloat);
  ASSERT_TRUE(SavePeft(saved, {"base", "title"}, directory).ok());
  Adapter wider(TinyConfig(), {.rank = 4, .targets = {Target::kQ}}, at::kCPU, at::kFloat);
  EXPECT_THAT(std::string(LoadPeftWeights(directory, &wider).message()),
              testing::HasSubstr("layers.0.self_attn.q_proj.lora_A.weight: expected shape [4, 64], as base and adapter_config.json have it, found [2, 64]"));
  Adapter fewer(TinyConfig(), {.rank = 2, .targets = {Target::kV}}, at::kCPU, at::kFloat);
  EXPECT_THAT(std::string(LoadPeftWeights(directory, &fewer).message()),
              testing::HasSubstr("v_proj.lora_A.weight is missing"));
}

TEST(PeftFiles, NumbersThatAreNotFiniteAreNamed) {
  c10::InferenceMode no_autograd;
  const std::string directory = parity::NewTemporaryDirectory("peft_nan");
  Adapter saved(TinyConfig(), {.rank = 2, .targets = {Target::kQ}}, at::kCPU, at::kFloat);
  saved.sites().back().b_OR.select(0, 3).fill_(NAN);
  ASSERT_TRUE(SavePeft(saved, {"base", "title"}, directory).ok());
  EXPECT_THAT(std::string(LoadPeftFolder(directory, TinyConfig(), at::kCPU, at::kFloat).status().message()),
              testing::HasSubstr("layers.1.self_attn.q_proj.lora_B.weight: expected finite numbers, found nan at 6"));
}

TEST(PeftFiles, UnsupportedConfigurationIsNamed) {
  const std::string directory = parity::NewTemporaryDirectory("peft_bias");
  std::ofstream(directory + "/adapter_config.json")
      << R"({"peft_type": "LORA", "r": 8, "lora_bias": true, "target_modules": ["q_proj"]})";
  EXPECT_THAT(std::string(ReadPeftConfig(directory).status().message()),
              testing::HasSubstr("lora_bias is true"));
}

}  // namespace
}  // namespace finetuned::lora
