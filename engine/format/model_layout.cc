#include "engine/format/model_layout.h"

#include <unordered_map>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace finetuned::format {
namespace {

void AddLinear(const std::string& name, int64_t out, int64_t in, bool bias,
               std::vector<ExpectedTensor>* tensors) {
  tensors->push_back({name + ".weight", {out, in}});
  if (bias) tensors->push_back({name + ".bias", {out}});
}

void AddLayer(const ModelConfig& c, int64_t layer, std::vector<ExpectedTensor>* tensors) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  tensors->push_back({prefix + "input_layernorm.weight", {c.hidden_size}});
  const std::string attention = prefix + "self_attn.";
  AddLinear(attention + "q_proj", c.q_size(), c.hidden_size, c.attention_bias, tensors);
  AddLinear(attention + "k_proj", c.kv_size(), c.hidden_size, c.attention_bias, tensors);
  AddLinear(attention + "v_proj", c.kv_size(), c.hidden_size, c.attention_bias, tensors);
  AddLinear(attention + "o_proj", c.hidden_size, c.q_size(), c.attention_bias, tensors);
  tensors->push_back({prefix + "post_attention_layernorm.weight", {c.hidden_size}});
  const std::string mlp = prefix + "mlp.";
  AddLinear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, tensors);
  AddLinear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, tensors);
  AddLinear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias, tensors);
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
  for (float divisor : s.divisors) {
    if (!(divisor > 0.0f && divisor <= 1e6f)) return bad("rope_freqs: expected above 0", divisor);
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
          " is not part of a Llama decoder with this configuration"));
    }
  }
  return matched;
}

}  // namespace finetuned::format
