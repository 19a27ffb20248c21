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

TEST(HfConfig, MistralsWindow) {
  json config = Llama32();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["rope_scaling"] = nullptr;
  config["sliding_window"] = nullptr;
  ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
  EXPECT_EQ(Parse(config)->layer_kind(3).window, 0);
  config["sliding_window"] = 131072;  // as long as the context: never active
  EXPECT_EQ(Parse(config)->layer_kind(3).window, 0);
  config["sliding_window"] = 2048;
  EXPECT_EQ(Parse(config)->layer_kind(3).window, 2048);
  config.erase("sliding_window");  // MistralConfig's default
  EXPECT_EQ(Parse(config)->layer_kind(15).window, 4096);
}

// Llama32 with another architecture and fields.
json Family(const char* architecture, const json& fields) {
  json config = Llama32();
  config["architectures"] = {architecture};
  config.erase("rope_scaling");
  config.update(fields);
  return config;
}

TEST(HfConfig, PartsOfTheFamilies) {
  const auto qwen2 = Parse(Family("Qwen2ForCausalLM", {{"use_sliding_window", true}, {"sliding_window", 1024},
                                                       {"max_window_layers", 12}}));
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_TRUE(qwen2->attention_bias);
  EXPECT_FALSE(qwen2->output_bias);
  EXPECT_EQ(qwen2->layer_kind(11).window, 0);
  EXPECT_EQ(qwen2->layer_kind(12).window, 1024);
  EXPECT_EQ(Parse(Family("Qwen3ForCausalLM", json::object()))->qk_norm, QkNorm::kShared);

  const auto smollm3 = Parse(Family("SmolLM3ForCausalLM", {{"no_rope_layers", json::array({1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})}}));
  ASSERT_TRUE(smollm3.ok()) << smollm3.status();
  EXPECT_FALSE(smollm3->layer_kind(1).rope);
  EXPECT_TRUE(smollm3->layer_kind(3).rope);

  const auto gemma2 = Parse(Family("Gemma2ForCausalLM", {{"hidden_act", "gelu_pytorch_tanh"}, {"sliding_window", 4096}}));
  ASSERT_TRUE(gemma2.ok()) << gemma2.status();
  EXPECT_EQ(gemma2->attention_softcap, 50.0);
  EXPECT_EQ(gemma2->logits_softcap, 30.0);
  EXPECT_EQ(gemma2->attention_scale, 1.0 / 16);
  EXPECT_EQ(gemma2->layer_kind(0).window, 4096);
  EXPECT_EQ(gemma2->layer_kind(1).window, 0);

  // As transformers 4 writes it.
  const auto gemma3 = Parse(Family("Gemma3ForCausalLM", {{"hidden_act", nullptr}, {"sliding_window", 512},
                                                         {"rope_theta", 1e6}, {"rope_local_base_freq", 1e4},
                                                         {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}}));
  ASSERT_TRUE(gemma3.ok()) << gemma3.status();
  EXPECT_EQ(gemma3->local_rope_theta, 1e4);
  EXPECT_EQ(gemma3->rope_theta, 1e6);
  EXPECT_EQ(gemma3->rope_scaling.factor, 8.0);
  EXPECT_EQ(gemma3->layer_kind(4), (LayerKind{512, true, true}));
  EXPECT_EQ(gemma3->layer_kind(5), (LayerKind{0, true, false}));

  const auto phi = Parse(Family("Phi3ForCausalLM", {{"original_max_position_embeddings", 4096}, {"partial_rotary_factor", 0.75},
                                                    {"rope_scaling", {{"type", "longrope"},
                                                                      {"short_factor", std::vector<double>(24, 1.0)},
                                                                      {"long_factor", std::vector<double>(24, 2.0)}}}}));
  ASSERT_TRUE(phi.ok()) << phi.status();
  EXPECT_TRUE(phi->fused_projections);
  EXPECT_EQ(phi->rotary_size(), 48);
  EXPECT_NEAR(phi->rope_scaling.magnitude, 1.190238, 1e-6);  // of Phi 3 mini with 128K

  const auto command = Parse(Family("Cohere2ForCausalLM", {{"sliding_window", 4096}, {"logit_scale", 0.25}}));
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->layer_kind(2), (LayerKind{4096, true, false}));
  EXPECT_EQ(command->layer_kind(3), (LayerKind{0, false, false}));
}

// Gemma 3 4B as its authors wrote it: what is the default is left out.
TEST(HfConfig, TheTextPartOfAModelWithImages) {
  json config = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                 {"eos_token_id", {1, 106}},
                 {"model_type", "gemma3"},
                 {"text_config",
                  {{"hidden_size", 2560}, {"intermediate_size", 10240}, {"model_type", "gemma3_text"}, {"num_hidden_layers", 34},
                   {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}}, {"sliding_window", 1024}}},
                 {"vision_config", {{"hidden_size", 1152}, {"model_type", "siglip_vision_model"}}}};
  const auto c = Parse(config);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->architecture, "gemma3");
  EXPECT_EQ(c->text_prefix, "language_model.");
  EXPECT_EQ(c->vocab_size, 262208);
  EXPECT_EQ(c->num_attention_heads, 8);
  EXPECT_EQ(c->num_key_value_heads, 4);
  EXPECT_EQ(c->head_dim, 256);
  EXPECT_EQ(c->rope_scaling.factor, 8.0);
  EXPECT_EQ(c->layer_kind(4).window, 1024);
  EXPECT_EQ(c->layer_kind(5).window, 0);
  EXPECT_THAT(c->eos_token_ids, ElementsAre(1, 106));
  EXPECT_TRUE(c->tie_word_embeddings);
  config.erase("text_config");
  ExpectError(Parse(config).status(), absl::StatusCode::kInvalidArgument, {"model/config.json", "text_config: expected an object"});
}

TEST(HfConfig, NamesOfATextPartAreThoseOfTheTextModel) {
  for (const char* name : {"language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight",
                           "model.layers.0.mlp.up_proj.weight"}) {
    EXPECT_EQ(TextTensorName(name), "model.layers.0.mlp.up_proj.weight") << name;
    EXPECT_FALSE(IsVisionTensor(name)) << name;
  }
  EXPECT_EQ(TextTensorName("language_model.lm_head.weight"), "lm_head.weight");
  EXPECT_TRUE(IsVisionTensor("model.vision_tower.vision_model.embeddings.patch_embedding.weight"));
  EXPECT_TRUE(IsVisionTensor("multi_modal_projector.mm_soft_emb_norm.weight"));
}

TEST(HfConfig, EachUnusableFamilyIsRefusedWithItsReason) {
  using Code = absl::StatusCode;
  const struct {
    const char* architecture;
    const char* patch;
    Code code;
    const char* message;
  } cases[] = {
      {"Qwen3MoeForCausalLM", "{}", Code::kUnimplemented, "Qwen3MoeForCausalLM is not supported; supported: Llama"},
      {"Gemma2ForCausalLM", R"({"hidden_act": "gelu_pytorch_tanh", "layer_types": ["full_attention"]})",
       Code::kInvalidArgument, "layer_types: expected 16 of them, found 1"},
      {"Gemma2ForCausalLM", R"({"query_pre_attn_scalar": 0})", Code::kInvalidArgument, "query_pre_attn_scalar"},
      {"Gemma2ForCausalLM", R"({"hidden_act": null, "attn_logit_softcapping": -1})", Code::kInvalidArgument, "attn_logit_softcapping"},
      {"Gemma3ForCausalLM", R"({"hidden_activation": "relu"})", Code::kUnimplemented, "expected gelu_pytorch_tanh, found relu"},
      {"Phi3ForCausalLM", R"({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}})",
       Code::kInvalidArgument, "rope factors: expected 32 of them, found 1"},
      {"Phi3ForCausalLM", R"({"partial_rotary_factor": 0.01})", Code::kInvalidArgument, "partial_rotary_factor"},
      {"GraniteForCausalLM", R"({"residual_multiplier": 0.2, "mlp_bias": true})", Code::kUnimplemented, "residual_multiplier"},
      {"GraniteForCausalLM", R"({"logits_scaling": 0})", Code::kInvalidArgument, "logits multiplier"},
      {"SmolLM3ForCausalLM", R"({"no_rope_layers": [1]})", Code::kInvalidArgument, "no_rope_layers: expected 16"},
  };
  for (const auto& c : cases) {
    ExpectError(Parse(Family(c.architecture, json::parse(c.patch))).status(), c.code, {"model/config.json", c.message},
                std::string(c.architecture) + c.patch);
  }
}

TEST(HfConfig, EachUnusableConfigurationIsRefusedWithItsReason) {
  using Code = absl::StatusCode;
  const struct {
    const char* patch;
    Code code;
    const char* message;
  } cases[] = {
      {R"({"architectures": ["GPT2LMHeadModel"]})", Code::kUnimplemented,
       "architecture GPT2LMHeadModel is not supported; supported: LlamaForCausalLM, MistralForCausalLM"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 2}})", Code::kUnimplemented,
       "rope type yarn is not supported; supported: default, linear, llama3, longrope"},
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
