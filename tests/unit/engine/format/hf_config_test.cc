#include "engine/format/hf_config.h"

#include <bit>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "engine/format/rope.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

using nlohmann::json;
using testing::ElementsAre;

// Llama 3.2 1B as transformers 4 writes it.
json Llama32() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
      "attention_bias": false, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
      "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
      "max_position_embeddings": 131072, "mlp_bias": false, "num_attention_heads": 32,
      "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
      "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                       "original_max_position_embeddings": 8192, "rope_type": "llama3"},
      "rope_theta": 500000.0, "tie_word_embeddings": true, "vocab_size": 128256})");
}

absl::StatusOr<ModelConfig> Parse(const json& config, const std::string& generation = "") {
  return ParseHfConfig(config.dump(), generation, "model");
}

TEST(HfConfig, Transformers4Llama) {
  const auto c = Parse(Llama32());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->hidden_size, 2048);
  EXPECT_EQ(c->q_size(), 2048);
  EXPECT_EQ(c->kv_size(), 512);
  EXPECT_EQ(c->rope_theta, 500000.0);
  EXPECT_EQ(c->rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(c->rope_scaling.factor, 32.0);
  EXPECT_EQ(c->rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_TRUE(c->tie_word_embeddings);
  EXPECT_EQ(c->bos_token_id, 128000);
  EXPECT_THAT(c->eos_token_ids, ElementsAre(128001, 128008, 128009));
}

TEST(HfConfig, Transformers5RopeParameters) {
  json config = Llama32();
  config.erase("rope_theta");
  config["rope_parameters"] = config["rope_scaling"];
  config["rope_parameters"]["rope_theta"] = 250000.0;
  config.erase("rope_scaling");
  const auto c = Parse(config);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->rope_theta, 250000.0);
  EXPECT_EQ(c->rope_scaling.type, RopeScaling::Type::kLlama3);
}

TEST(HfConfig, OldNameOfLinearScaling) {
  json config = Llama32();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  const auto c = Parse(config);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(c->rope_scaling.factor, 4.0);
}

TEST(HfConfig, AbsentFieldsTakeLlamaDefaults) {
  const auto c = Parse({{"model_type", "llama"},
                        {"vocab_size", 100},
                        {"hidden_size", 64},
                        {"intermediate_size", 128},
                        {"num_hidden_layers", 2},
                        {"num_attention_heads", 4}});
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->num_key_value_heads, 4);
  EXPECT_EQ(c->head_dim, 16);
  EXPECT_EQ(c->max_position_embeddings, 2048);
  EXPECT_EQ(c->rms_norm_eps, 1e-6);
  EXPECT_EQ(c->rope_theta, 10000.0);
  EXPECT_EQ(c->bos_token_id, 1);
  EXPECT_THAT(c->eos_token_ids, ElementsAre(2));
}

TEST(HfConfig, GenerationConfigDecidesTheEndTokens) {
  const auto c = Parse(Llama32(), R"({"eos_token_id": [5, 6]})");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_THAT(c->eos_token_ids, ElementsAre(5, 6));
  json none = Llama32();
  none["eos_token_id"] = nullptr;
  EXPECT_TRUE(Parse(none)->eos_token_ids.empty());
}

TEST(HfConfig, MistralWithoutSlidingWindowIsTheSameBlock) {
  json config = Llama32();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["rope_scaling"] = nullptr;
  config["sliding_window"] = nullptr;
  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
  config["sliding_window"] = 131072;  // as long as the context: never active
  EXPECT_TRUE(Parse(config).ok()) << Parse(config).status();
  config["sliding_window"] = 4096;
  ExpectError(Parse(config).status(), absl::StatusCode::kUnimplemented, {"sliding_window 4096"});
  config.erase("sliding_window");  // MistralConfig's default
  ExpectError(Parse(config).status(), absl::StatusCode::kUnimplemented, {"sliding_window 4096"});
}

TEST(HfConfig, EachUnusableConfigurationIsRefusedWithItsReason) {
  using Code = absl::StatusCode;
  const struct {
    const char* patch;
    Code code;
    const char* message;
  } cases[] = {
      {R"({"architectures": ["Qwen3ForCausalLM"]})", Code::kUnimplemented,
       "architecture Qwen3ForCausalLM is not supported; supported: LlamaForCausalLM"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 2}})", Code::kUnimplemented,
       "rope type yarn is not supported; supported: default, linear, llama3"},
      {R"({"rope_scaling": {"rope_type": "linear"}})", Code::kInvalidArgument, "factor is missing"},
      {R"({"rope_scaling": {"rope_type": "linear", "factor": 0}})", Code::kInvalidArgument,
       "rope factor"},
      {R"({"hidden_act": "gelu"})", Code::kUnimplemented, "expected silu, found gelu"},
      {R"({"quantization_config": {"quant_method": "gptq"}})", Code::kUnimplemented,
       "quantization_config"},
      {R"({"partial_rotary_factor": 0.5})", Code::kUnimplemented, "partial_rotary_factor"},
      {R"({"hidden_size": "2048"})", Code::kInvalidArgument,
       "hidden_size: expected an integer, found \"2048\""},
      {R"({"hidden_size": null})", Code::kInvalidArgument, "hidden_size is missing"},
      {R"({"num_hidden_layers": -1})", Code::kInvalidArgument, "num_hidden_layers: expected 1 to"},
      {R"({"num_key_value_heads": 7})", Code::kInvalidArgument, "not a multiple"},
      {R"({"head_dim": 63})", Code::kInvalidArgument, "head_dim: expected an even number"},
      {R"({"vocab_size": 9223372036854775807})", Code::kInvalidArgument, "vocab_size"},
      {R"({"eos_token_id": 128256})", Code::kInvalidArgument, "eos_token_id"},
      {R"({"eos_token_id": "x"})", Code::kInvalidArgument, "eos_token_id: expected a token id"},
      {R"({"rope_theta": 0})", Code::kInvalidArgument, "rope_theta"},
  };
  for (const auto& c : cases) {
    json config = Llama32();
    config.update(json::parse(c.patch));
    ExpectError(Parse(config).status(), c.code, {"model/config.json", c.message}, c.patch);
  }
  ExpectError(ParseHfConfig("{", "", "model").status(), Code::kInvalidArgument,
              {"model/config.json: not valid JSON"});
  ExpectError(Parse(Llama32(), "[]").status(), Code::kInvalidArgument,
              {"model/generation_config.json: not a JSON object"});
}

// Ours round the exact power; torch's vector pow may err by one unit in the last place.
TEST(Rope, FrequenciesEqualTransformersToOneUnitInTheLastPlace) {
  const json goldens = json::parse(ReadFile(GoldenPath("goldens.json")));
  for (const json& golden : goldens["rope"]) {
    json config = golden["config"];
    config["bos_token_id"] = nullptr;
    config["eos_token_id"] = nullptr;
    const auto parsed = Parse(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const std::vector<double> frequencies = InverseFrequencies(*parsed);
    ASSERT_EQ(frequencies.size(), golden["bits"].size());
    int different = 0;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const float value = static_cast<float>(frequencies[i]);
      EXPECT_EQ(static_cast<double>(value), frequencies[i]);
      const int64_t distance = std::bit_cast<int32_t>(value) - golden["bits"][i].get<int64_t>();
      EXPECT_LE(std::abs(distance), 1) << config["rope_parameters"] << " pair " << i;
      different += distance != 0;
    }
    EXPECT_LE(different, 1) << config["rope_parameters"];
  }
}

}  // namespace
}  // namespace finetuned::format
