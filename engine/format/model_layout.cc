#include "engine/format/model_layout.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace finetuned::format {
namespace {

void AddLayer(const ModelConfig& c, int64_t layer, std::vector<ExpectedTensor>* tensors) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  for (const LayerNorm& norm : LayerNorms(c)) tensors->push_back({prefix + norm.name + ".weight", norm.shape});
  for (const LayerLinear& linear : LayerLinears(c)) {
    tensors->push_back({prefix + linear.path + ".weight", {linear.out, linear.in}});
    if (linear.bias) tensors->push_back({prefix + linear.path + ".bias", {linear.out}});
  }
}

bool MayBePassedOver(absl::string_view name) {
  return name == "lm_head.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq");
}

absl::Status CheckRange(const std::string& file, absl::string_view field, int64_t value,
                        int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": ", field, ": expected ", low, " to ", high, ", found ", value));
}

absl::Status CheckTokenIds(const ModelConfig& c, const std::string& file) {
  const int64_t last = c.vocab_size - 1;
  if (c.bos_token_id) {
    if (absl::Status s = CheckRange(file, "bos_token_id", *c.bos_token_id, 0, last); !s.ok()) {
      return s;
    }
  }
  for (int32_t id : c.eos_token_ids) {
    if (absl::Status s = CheckRange(file, "eos_token_id", id, 0, last); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const ModelConfig& c, const std::string& file) {
  const RopeScaling& s = c.rope_scaling;
  const auto bad = [&file](absl::string_view text, double value) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", text, ", found ", value));
  };
  // Negated comparisons also catch NaN.
  if (!(c.rope_theta >= 1.0 && c.rope_theta <= 1e30))
    return bad("rope_theta: expected 1 to 1e30", c.rope_theta);
  if (!(c.rms_norm_eps >= 0.0 && c.rms_norm_eps <= 1.0)) {
    return bad("rms_norm_eps: expected 0 to 1", c.rms_norm_eps);
  }
  if (!(s.factor > 0.0 && s.factor <= 1e6)) return bad("rope factor: expected above 0", s.factor);
  if (s.type == RopeScaling::Type::kLlama3) {
    if (!(s.low_freq_factor > 0.0 && s.high_freq_factor > s.low_freq_factor)) {
      return bad("rope high_freq_factor: expected above low_freq_factor, both positive",
                 s.high_freq_factor);
    }
    if (s.original_max_position_embeddings < 1) {
      return bad("rope original_max_position_embeddings: expected at least 1",
                 static_cast<double>(s.original_max_position_embeddings));
    }
  }
  for (const std::vector<float>* divisors : {&s.divisors, &s.long_divisors}) {
    const bool wanted = s.type == RopeScaling::Type::kLongRope ||
                        (s.type == RopeScaling::Type::kDivisors && divisors == &s.divisors);
    const int64_t count = wanted ? c.rotary_size() / 2 : 0;
    if (static_cast<int64_t>(divisors->size()) != count) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": rope ", divisors == &s.divisors ? "factors" : "long_factor",
                                                     ": expected ", count, " of them, found ", divisors->size()));
    }
    for (float divisor : *divisors) {
      if (!(divisor > 0.0f && divisor <= 1e6f)) return bad("rope_freqs: expected above 0", divisor);
    }
  }
  if (!(s.magnitude > 0.0 && s.magnitude <= 100.0)) return bad("rope attention_factor: expected 0 to 100", s.magnitude);
  return absl::OkStatus();
}

// Factors and caps of the family. Negated comparisons also catch NaN.
absl::Status CheckParts(const ModelConfig& c, const std::string& file) {
  const struct {
    const char* field;
    double value, low, high;
  } ranges[] = {
      {"attention_multiplier", c.attention_scale, 0, 1e6},
      {"attn_logit_softcapping", c.attention_softcap, 0, 1e6},
      {"final_logit_softcapping", c.logits_softcap, 0, 1e6},
      {"embedding_multiplier", c.embedding_multiplier, 1e-6, 1e6},
      {"residual_multiplier", c.residual_multiplier, 1e-6, 1e6},
      {"logits multiplier", c.logits_multiplier, 1e-6, 1e6},
  };
  for (const auto& r : ranges) {
    if (!(r.value >= r.low && r.value <= r.high)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", r.field, ": expected ", r.low, " to ", r.high, ", found ", r.value));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const ExpectedTensor& expected, const TensorInfo& found,
                        const std::string& file) {
  const std::string where = absl::StrCat(file, ": tensor ", expected.name);
  if (found.shape != expected.shape) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": expected shape ",
                                                   ShapeString(expected.shape), ", found ",
                                                   ShapeString(found.shape)));
  }
  if (!IsWeightType(found.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": expected floating-point or quantized weights, found ", DTypeName(found.dtype)));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<LayerLinear> LayerLinears(const ModelConfig& c) {
  using Group = LinearGroup;
  const int64_t d = c.hidden_size, q = c.q_size(), kv = c.kv_size(), f = c.intermediate_size;
  std::vector<LayerLinear> linears;
  if (c.fused_projections) {
    linears.push_back({"self_attn.qkv_proj", "qkv_proj", Group::kQkv, d, q + 2 * kv, c.attention_bias});
  } else {
    linears.push_back({"self_attn.q_proj", "q_proj", Group::kQkv, d, q, c.attention_bias});
    linears.push_back({"self_attn.k_proj", "k_proj", Group::kQkv, d, kv, c.attention_bias});
    linears.push_back({"self_attn.v_proj", "v_proj", Group::kQkv, d, kv, c.attention_bias});
  }
  linears.push_back({"self_attn.o_proj", "o_proj", Group::kO, q, d, c.output_bias});
  if (c.fused_projections) {
    linears.push_back({"mlp.gate_up_proj", "gate_up_proj", Group::kGateUp, d, 2 * f, c.mlp_bias});
  } else {
    linears.push_back({"mlp.gate_proj", "gate_proj", Group::kGateUp, d, f, c.mlp_bias});
    linears.push_back({"mlp.up_proj", "up_proj", Group::kGateUp, d, f, c.mlp_bias});
  }
  linears.push_back({"mlp.down_proj", "down_proj", Group::kDown, f, d, c.mlp_bias});
  return linears;
}

absl::Status CheckLinearNames(const std::vector<std::string>& names, const ModelConfig& config) {
  const std::vector<LayerLinear> linears = LayerLinears(config);
  for (const std::string& name : names) {
    const bool known = name == "all-linear" || std::any_of(linears.begin(), linears.end(),
                                                           [&](const LayerLinear& l) { return name == l.name; });
    if (known) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", absl::Utf8SafeCHexEscape(name), "\" is not a linear of this ", config.architecture, " model; use ",
        absl::StrJoin(linears, ", ", [](std::string* out, const LayerLinear& l) { out->append(l.name); }),
        " or all-linear"));
  }
  return absl::OkStatus();
}

const char* MlpNormName(const ModelConfig& c) {
  switch (c.block) {
    case BlockKind::kSequential: return "post_attention_layernorm";
    case BlockKind::kPostNorms: return "pre_feedforward_layernorm";
    case BlockKind::kParallel: break;
  }
  return "";
}

std::vector<LayerNorm> LayerNorms(const ModelConfig& c) {
  std::vector<LayerNorm> norms = {{"input_layernorm", {c.hidden_size}}};
  if (*MlpNormName(c) != 0) norms.push_back({MlpNormName(c), {c.hidden_size}});
  if (c.has_post_norms()) {
    norms.push_back({"post_attention_layernorm", {c.hidden_size}});
    norms.push_back({"post_feedforward_layernorm", {c.hidden_size}});
  }
  const auto of_heads = [&](int64_t heads) {
    return c.qk_norm == QkNorm::kPerHead ? std::vector<int64_t>{heads, c.head_dim} : std::vector<int64_t>{c.head_dim};
  };
  if (c.qk_norm != QkNorm::kNone) {
    norms.push_back({"self_attn.q_norm", of_heads(c.num_attention_heads)});
    norms.push_back({"self_attn.k_norm", of_heads(c.num_key_value_heads)});
  }
  return norms;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) AddLayer(config, i, &tensors);
  tensors.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  }
  return tensors;
}

absl::Status CheckConfig(const ModelConfig& c, const std::string& file) {
  constexpr int64_t kMaxSize = int64_t{1} << 24;
  const struct {
    const char* field;
    int64_t value, low, high;
  } ranges[] = {
      {"vocab_size", c.vocab_size, 1, kMaxSize},
      {"hidden_size", c.hidden_size, 1, kMaxSize},
      {"intermediate_size", c.intermediate_size, 1, kMaxSize},
      {"num_hidden_layers", c.num_hidden_layers, 1, 1000},
      {"num_attention_heads", c.num_attention_heads, 1, 65536},
      {"num_key_value_heads", c.num_key_value_heads, 1, c.num_attention_heads},
      {"head_dim", c.head_dim, 2, 65536},
      {"max_position_embeddings", c.max_position_embeddings, 1, int64_t{1} << 31},
  };
  for (const auto& r : ranges) {
    if (absl::Status s = CheckRange(file, r.field, r.value, r.low, r.high); !s.ok()) return s;
  }
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": num_attention_heads ", c.num_attention_heads,
                     " is not a multiple of num_key_value_heads ", c.num_key_value_heads));
  }
  if (c.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": head_dim: expected an even number, found ", c.head_dim));
  }
  if (absl::Status s = CheckRope(c, file); !s.ok()) return s;
  if (absl::Status s = CheckParts(c, file); !s.ok()) return s;
  return CheckTokenIds(c, file);
}

absl::StatusOr<std::vector<size_t>> MatchTensors(const ModelConfig& config,
                                                 const std::vector<TensorInfo>& found,
                                                 const std::string& file) {
  std::unordered_map<std::string, size_t> positions;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!positions.emplace(found[i].name, i).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": tensor ", absl::Utf8SafeCHexEscape(found[i].name), " is there twice"));
    }
  }
  std::vector<size_t> matched;
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    const auto it = positions.find(expected.name);
    if (it == positions.end()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", expected.name,
                                                     " is missing; expected shape ",
                                                     ShapeString(expected.shape)));
    }
    if (absl::Status s = CheckShape(expected, found[it->second], file); !s.ok()) return s;
    matched.push_back(it->second);
    positions.erase(it);
  }
  for (const TensorInfo& tensor : found) {
    if (positions.contains(tensor.name) && !MayBePassedOver(tensor.name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": tensor ", absl::Utf8SafeCHexEscape(tensor.name), " ", ShapeString(tensor.shape),
          " is not part of a ", config.architecture, " decoder with this configuration"));
    }
  }
  return matched;
}

}  // namespace finetuned::format
