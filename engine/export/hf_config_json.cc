#include "engine/export/hf_config_json.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/format/families/family.h"
#include "engine/format/gguf_config.h"
#include "engine/format/rope.h"

namespace finetuned::exports {
namespace {

using nlohmann::ordered_json;
using format::ModelConfig;

// GGUF holds a float32; its shortest decimal form is what the model's author wrote.
double Shortest(double x) { return std::stod(absl::StrCat(static_cast<float>(x))); }

// GGUF keeps llama3 scaling as divisors of the frequencies. All Llama 3 models share its other parameters, and the
// original context is a power of two: what gives the same frequencies is found by trying.
std::optional<format::RopeScaling> Llama3ScalingOf(const ModelConfig& config) {
  const std::vector<float>& divisors = config.rope_scaling.divisors;
  const std::vector<double> wanted = format::InverseFrequencies(config);
  ModelConfig guess = config;
  for (int64_t context = 32; context <= 1 << 20; context *= 2) {
    guess.rope_scaling = {};
    guess.rope_scaling.type = format::RopeScaling::Type::kLlama3;
    guess.rope_scaling.factor = *std::max_element(divisors.begin(), divisors.end());
    guess.rope_scaling.original_max_position_embeddings = context;
    const std::vector<double> made = format::InverseFrequencies(guess);
    const bool equal = std::equal(wanted.begin(), wanted.end(), made.begin(),
                                  [](double a, double b) { return std::fabs(b / a - 1) < 1e-5; });
    if (equal) return guess.rope_scaling;
  }
  return std::nullopt;
}

// Factor and attention factor follow from the two contexts; the latter is written where it is another.
ordered_json LongRopeJson(const ModelConfig& c) {
  const format::RopeScaling& s = c.rope_scaling;
  ordered_json j = {{"rope_type", "longrope"}, {"short_factor", ordered_json::array()}, {"long_factor", ordered_json::array()}};
  for (float x : s.divisors) j["short_factor"].push_back(Shortest(x));
  for (float x : s.long_divisors) j["long_factor"].push_back(Shortest(x));
  const double context = static_cast<double>(s.original_max_position_embeddings);
  const double factor = static_cast<double>(c.max_position_embeddings) / context;
  const double usual = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(context));
  if (std::fabs(usual - s.magnitude) > 1e-5) j["attention_factor"] = Shortest(s.magnitude);
  return j;
}

absl::StatusOr<ordered_json> RopeScalingJson(const ModelConfig& config) {
  const format::RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == format::RopeScaling::Type::kNone) return ordered_json();
  if (scaling.type == format::RopeScaling::Type::kLongRope) return LongRopeJson(config);
  if (scaling.type == format::RopeScaling::Type::kLinear) {
    return ordered_json{{"rope_type", "linear"}, {"factor", scaling.factor}};
  }
  const std::optional<format::RopeScaling> found =
      scaling.type == format::RopeScaling::Type::kDivisors ? Llama3ScalingOf(config) : scaling;
  if (!found) {
    return absl::UnimplementedError(
        "rope_freqs.weight of the GGUF base is not the scaling of Llama 3, which alone can be written to config.json; use "
        "the model's Hugging Face folder as base");
  }
  return ordered_json{{"rope_type", "llama3"},
                      {"factor", found->factor},
                      {"low_freq_factor", found->low_freq_factor},
                      {"high_freq_factor", found->high_freq_factor},
                      {"original_max_position_embeddings", found->original_max_position_embeddings}};
}

// Windows and positions by layer.
void AddLayers(const ModelConfig& c, ordered_json* j) {
  int64_t window = 0;
  for (const format::LayerKind& kind : c.layer_kinds) window = std::max(window, kind.window);
  if (c.architecture == "phi3") (*j)["sliding_window"] = window > 0 ? ordered_json(window) : ordered_json();
  if (c.architecture == "smollm3") {
    (*j)["no_rope_layers"] = ordered_json::array();
    for (const format::LayerKind& kind : c.layer_kinds) (*j)["no_rope_layers"].push_back(kind.rope ? 1 : 0);
  }
  if (c.architecture != "gemma2" && c.architecture != "gemma3" && c.architecture != "cohere2") return;
  (*j)["sliding_window"] = window > 0 ? window : c.max_position_embeddings;
  (*j)["layer_types"] = ordered_json::array();
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const format::LayerKind kind = c.layer_kind(i);
    (*j)["layer_types"].push_back(kind.window > 0 || kind.local_rope ? "sliding_attention" : "full_attention");
  }
}

void AddGemma(const ModelConfig& c, ordered_json* j) {
  const auto cap = [](double x) { return x > 0 ? ordered_json(Shortest(x)) : ordered_json(); };
  (*j)["hidden_act"] = (*j)["hidden_activation"] = "gelu_pytorch_tanh";
  if (c.architecture == "gemma") return;
  (*j)["query_pre_attn_scalar"] = std::lround(1.0 / (c.score_scale() * c.score_scale()));
  (*j)["attn_logit_softcapping"] = cap(c.attention_softcap);
  (*j)["final_logit_softcapping"] = cap(c.logits_softcap);
  if (c.local_rope_theta > 0) (*j)["rope_local_base_freq"] = Shortest(c.local_rope_theta);
}

// What the family has that Llama has not.
void AddFamily(const ModelConfig& c, ordered_json* j) {
  AddLayers(c, j);
  if (c.norm == format::NormKind::kRmsFloat) AddGemma(c, j);
  if (c.architecture == "granite") {
    (*j)["embedding_multiplier"] = Shortest(c.embedding_multiplier);
    (*j)["residual_multiplier"] = Shortest(c.residual_multiplier);
    (*j)["attention_multiplier"] = Shortest(c.score_scale());
    (*j)["logits_scaling"] = Shortest(1.0 / c.logits_multiplier);
  }
  if (c.norm == format::NormKind::kLayer) {
    j->erase("rms_norm_eps");
    (*j)["layer_norm_eps"] = Shortest(c.rms_norm_eps);
    (*j)["logit_scale"] = Shortest(c.logits_multiplier);
    if (c.architecture == "cohere") (*j)["use_qk_norm"] = c.qk_norm != format::QkNorm::kNone;
  }
  if (c.architecture == "phi3") {
    if (c.rotary_size() != c.head_dim) {
      (*j)["partial_rotary_factor"] = static_cast<double>(c.rotary_size()) / static_cast<double>(c.head_dim);
    }
    const format::RopeScaling& s = c.rope_scaling;
    const bool extended = s.type == format::RopeScaling::Type::kLongRope;
    (*j)["original_max_position_embeddings"] = extended ? s.original_max_position_embeddings : c.max_position_embeddings;
  }
}

}  // namespace

const char* TorchName(format::DType dtype) {
  if (dtype == format::DType::kF32) return "float32";
  return dtype == format::DType::kF16 ? "float16" : "bfloat16";
}

absl::StatusOr<ordered_json> HfConfigJson(const ModelConfig& c, std::optional<int32_t> pad_token_id, format::DType dtype) {
  const format::Family* family = format::FindGgufFamily(format::GgufArchitecture(c));
  if (family == nullptr) return absl::InternalError(absl::StrCat("architecture ", c.architecture, " has no family"));
  ordered_json j = {{"architectures", ordered_json::array({family->hf_architecture})},
                    {"attention_bias", c.attention_bias},
                    {"attention_dropout", 0.0},
                    {"bos_token_id", nullptr},
                    {"eos_token_id", nullptr},
                    {"head_dim", c.head_dim},
                    {"hidden_act", "silu"},
                    {"hidden_size", c.hidden_size},
                    {"initializer_range", 0.02},
                    {"intermediate_size", c.intermediate_size},
                    {"max_position_embeddings", c.max_position_embeddings},
                    {"mlp_bias", c.mlp_bias},
                    {"model_type", family->model_type},
                    {"num_attention_heads", c.num_attention_heads},
                    {"num_hidden_layers", c.num_hidden_layers},
                    {"num_key_value_heads", c.num_key_value_heads},
                    {"pad_token_id", nullptr},
                    {"rms_norm_eps", Shortest(c.rms_norm_eps)},
                    {"rope_scaling", nullptr},
                    {"rope_theta", c.rope_theta},
                    {"tie_word_embeddings", c.tie_word_embeddings},
                    {"torch_dtype", TorchName(dtype)},
                    {"use_cache", true},
                    {"vocab_size", c.vocab_size}};
  if (c.bos_token_id) j["bos_token_id"] = *c.bos_token_id;
  if (pad_token_id) j["pad_token_id"] = *pad_token_id;
  if (c.eos_token_ids.size() == 1) j["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) j["eos_token_id"] = c.eos_token_ids;
  absl::StatusOr<ordered_json> scaling = RopeScalingJson(c);
  if (!scaling.ok()) return scaling.status();
  j["rope_scaling"] = *std::move(scaling);
  AddFamily(c, &j);
  return j;
}

}  // namespace finetuned::exports
