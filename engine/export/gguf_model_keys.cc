#include "engine/export/gguf_model_keys.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/gguf_tensor_names.h"
#include "engine/format/rope.h"

namespace finetuned::exports {
namespace {

using format::ModelConfig;
using format::RopeScaling;

// What llama.cpp's files of an architecture may hold beside the tensors that all have.
struct Architecture {
  const char* name;
  bool output_bias, mlp_bias;  // of o; of gate, up, down. Those of q, k, v have a place everywhere
  bool head;                   // output.weight beside token_embd.weight
  bool wide_heads;             // heads * head_dim may differ from the hidden size
  bool divisors;               // rope_freqs.weight
};
constexpr Architecture kArchitectures[] = {
    {"llama", true, true, true, true, true},        {"qwen2", false, false, true, false, false},
    {"qwen3", false, false, true, true, false},     {"smollm3", false, false, true, true, false},
    {"phi3", false, false, true, false, false},     {"granite", true, true, true, true, true},
    {"gemma", false, false, false, true, false},    {"gemma2", false, false, false, true, false},
    {"gemma3", false, false, true, true, false},    {"command-r", false, false, false, false, false},
    {"cohere2", false, false, false, false, false},
};
constexpr int64_t kCommandRPlusLayers = 64;  // with so many, llama.cpp expects norms of q and k

absl::Status NoPlace(const std::string& architecture, const char* part) {
  return absl::UnimplementedError(absl::StrCat("GGUF files of architecture ", architecture, " have no place for ", part,
                                               "; export as \"merged\" instead"));
}

bool HasDivisors(const ModelConfig& c) {
  return c.rope_scaling.type == RopeScaling::Type::kLlama3 || c.rope_scaling.type == RopeScaling::Type::kDivisors;
}

// The window of the layers that have one; for layers that are local without it, the whole context.
int64_t WindowOf(const ModelConfig& c) {
  for (const format::LayerKind& kind : c.layer_kinds) {
    if (kind.window > 0) return kind.window;
  }
  return c.max_position_embeddings;
}

// Without a key for windows a file's context ends where attention would begin to differ.
bool WindowsAreTold(const ModelConfig& c) {
  return c.architecture == "phi3" || c.architecture == "gemma2" || c.architecture == "gemma3" || c.architecture == "cohere2";
}

void AddWindow(const ModelConfig& c, const std::string& prefix, format::GgufMetadataBuilder* m) {
  if (!WindowsAreTold(c)) return;
  // llama.cpp knows Phi 4 by a window of 0.
  const int64_t window = c.architecture == "phi3" && c.layer_kinds.empty() ? 0 : WindowOf(c);
  m->U32(prefix + "attention.sliding_window", static_cast<uint32_t>(window));
}

void AddSizes(const ModelConfig& c, const std::string& prefix, format::GgufMetadataBuilder* m) {
  const auto size = [&](const char* key, int64_t value) { m->U32(prefix + key, static_cast<uint32_t>(value)); };
  size("block_count", c.num_hidden_layers);
  size("context_length", WindowsAreTold(c) ? c.max_position_embeddings : std::min(c.max_position_embeddings, WindowOf(c)));
  size("embedding_length", c.hidden_size);
  size("feed_forward_length", c.intermediate_size);
  size("attention.head_count", c.num_attention_heads);
  size("attention.head_count_kv", c.num_key_value_heads);
  size("attention.key_length", c.head_dim);
  size("attention.value_length", c.head_dim);
  size("rope.dimension_count", c.rotary_size());
  size("vocab_size", c.vocab_size);
  const char* eps = c.norm == format::NormKind::kLayer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
  m->F32(prefix + eps, static_cast<float>(c.rms_norm_eps));
}

// Multipliers and caps that are not the architecture's own.
void AddFactors(const ModelConfig& c, const std::string& prefix, format::GgufMetadataBuilder* m) {
  const auto number = [&](const char* key, double value) { m->F32(prefix + key, static_cast<float>(value)); };
  if (c.attention_softcap > 0) number("attn_logit_softcapping", c.attention_softcap);
  if (c.logits_softcap > 0) number("final_logit_softcapping", c.logits_softcap);
  if (c.architecture == "granite") {
    number("embedding_scale", c.embedding_multiplier);
    number("residual_scale", c.residual_multiplier);
    number("attention.scale", c.score_scale());
    number("logit_scale", 1.0 / c.logits_multiplier);
  } else if (c.logits_multiplier != 1) {
    number("logit_scale", c.logits_multiplier);
  }
}

// llama3 scaling becomes a table of divisors, as llama.cpp's converter writes it.
void AddRope(const ModelConfig& c, const std::string& prefix, GgufHead* head) {
  const RopeScaling& scaling = c.rope_scaling;
  format::GgufMetadataBuilder& m = head->metadata;
  m.F32(prefix + "rope.freq_base", static_cast<float>(c.rope_theta));
  if (c.local_rope_theta > 0) m.F32(prefix + "rope.freq_base_swa", static_cast<float>(c.local_rope_theta));
  if (scaling.type == RopeScaling::Type::kLinear) {
    m.String(prefix + "rope.scaling.type", "linear");
    m.F32(prefix + "rope.scaling.factor", static_cast<float>(scaling.factor));
  } else if (scaling.type == RopeScaling::Type::kLongRope) {
    m.U32(prefix + "rope.scaling.original_context_length", static_cast<uint32_t>(scaling.original_max_position_embeddings));
    m.F32(prefix + "rope.scaling.attn_factor", static_cast<float>(scaling.magnitude));
    head->tensors.push_back({"rope_factors_long.weight", scaling.long_divisors});
    head->tensors.push_back({"rope_factors_short.weight", scaling.divisors});
  } else if (HasDivisors(c)) {
    ModelConfig plain = c;
    plain.rope_scaling = {};
    const std::vector<double> scaled = format::InverseFrequencies(c), full = format::InverseFrequencies(plain);
    ExtraTensor table{"rope_freqs.weight", {}};
    for (size_t i = 0; i < full.size(); ++i) table.numbers.push_back(static_cast<float>(full[i] / scaled[i]));
    head->tensors.push_back(std::move(table));
  }
}

// The configuration that a loader makes of the file.
absl::StatusOr<ModelConfig> ReadBack(const format::ModelSource& base, const GgufHead& head) {
  std::string file = "GGUF";
  const auto put = [&file](const void* bytes, size_t n) { file.append(static_cast<const char*>(bytes), n); };
  const uint32_t version = 3;
  const uint64_t tensors = 0, keys = head.metadata.count();
  put(&version, sizeof(version));
  put(&tensors, sizeof(tensors));
  put(&keys, sizeof(keys));
  file += head.metadata.bytes();
  std::vector<int64_t> offsets;
  for (const ExtraTensor& extra : head.tensors) {
    offsets.push_back(static_cast<int64_t>(file.size()));
    put(extra.numbers.data(), extra.numbers.size() * sizeof(float));
  }
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(file.data()), file.size());
  absl::StatusOr<format::GgufLayout> layout = format::ParseGguf(bytes, "the GGUF file");
  if (!layout.ok()) return layout.status();
  for (size_t i = 0; i < head.tensors.size(); ++i) {
    const int64_t count = static_cast<int64_t>(head.tensors[i].numbers.size());
    layout->tensors.push_back({{head.tensors[i].name, format::DType::kF32, {count}, count * 4}, offsets[i]});
  }
  for (const format::TensorInfo& tensor : base.tensors()) {
    layout->tensors.push_back({tensor, 0});
    layout->tensors.back().info.name = format::GgufTensorName(tensor.name, base.config());
  }
  return format::GgufConfig(*layout, bytes, "the GGUF file");
}

bool Near(double a, double b) { return std::fabs(a - b) <= 1e-5 * std::max(std::fabs(a), std::fabs(b)); }

bool SameRope(const ModelConfig& a, const ModelConfig& b) {
  using format::RopeTable;
  const bool longer = a.rope_scaling.type == RopeScaling::Type::kLongRope;
  if (longer != (b.rope_scaling.type == RopeScaling::Type::kLongRope)) return false;
  for (const RopeTable table : {RopeTable::kMain, RopeTable::kLong, RopeTable::kLocal}) {
    if (table == RopeTable::kLong && !longer) continue;
    if (table == RopeTable::kLocal && a.local_rope_theta == 0 && b.local_rope_theta == 0) continue;
    const std::vector<double> x = format::InverseFrequencies(a, table), y = format::InverseFrequencies(b, table);
    if (!std::equal(x.begin(), x.end(), y.begin(), y.end(), Near)) return false;
  }
  return !longer || (Near(a.rope_scaling.magnitude, b.rope_scaling.magnitude) &&
                     a.rope_scaling.original_max_position_embeddings == b.rope_scaling.original_max_position_embeddings);
}

bool SameLayers(const ModelConfig& wanted, const ModelConfig& found) {
  for (int64_t i = 0; i < wanted.num_hidden_layers; ++i) {
    format::LayerKind a = wanted.layer_kind(i), b = found.layer_kind(i);
    if (!WindowsAreTold(wanted)) a.window = 0;  // the context is no longer than it
    if (!(a == b)) return false;
  }
  return true;
}

}  // namespace

absl::Status CheckGgufParts(const ModelConfig& c, const std::string& architecture) {
  const auto known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                  [&](const Architecture& a) { return architecture == a.name; });
  if (known == std::end(kArchitectures)) {
    return absl::UnimplementedError(absl::StrCat("models of architecture ", c.architecture, " cannot be written as GGUF"));
  }
  if (c.output_bias && !known->output_bias) return NoPlace(architecture, "a bias of o_proj");
  if (c.mlp_bias && !known->mlp_bias) return NoPlace(architecture, "biases of the MLP");
  if (!c.tie_word_embeddings && !known->head) return NoPlace(architecture, "a head beside the embedding");
  if (c.q_size() != c.hidden_size && !known->wide_heads) return NoPlace(architecture, "heads that are not hidden size / heads wide");
  if (HasDivisors(c) && !known->divisors) return NoPlace(architecture, "the RoPE scaling of Llama 3");
  if (architecture == "gemma2" && c.attention_softcap == 0) return NoPlace(architecture, "scores without a softcap");
  const bool norms = c.qk_norm != format::QkNorm::kNone;
  if (architecture == "command-r" && norms != (c.num_hidden_layers >= kCommandRPlusLayers)) {
    return NoPlace(architecture, norms ? "norms of q and k in less than 64 layers" : "64 layers without norms of q and k");
  }
  return absl::OkStatus();
}

void AddModelKeys(const ModelConfig& config, const std::string& architecture, GgufHead* head) {
  const std::string prefix = architecture + ".";
  AddSizes(config, prefix, &head->metadata);
  AddWindow(config, prefix, &head->metadata);
  AddFactors(config, prefix, &head->metadata);
  AddRope(config, prefix, head);
}

absl::Status CheckModelKeys(const format::ModelSource& base, const GgufHead& head) {
  const ModelConfig& a = base.config();
  const absl::StatusOr<ModelConfig> b = ReadBack(base, head);
  if (!b.ok()) return absl::UnimplementedError(absl::StrCat("cannot be written as GGUF: ", b.status().message()));
  const struct {
    const char* part;
    bool same;
  } parts[] = {
      {"the layers' pattern of windows and positions", SameLayers(a, *b)},
      {"the frequencies of the rotary embedding", SameRope(a, *b)},
      {"the scale of the scores", Near(a.score_scale(), b->score_scale())},
      {"the softcap of the scores", Near(a.attention_softcap, b->attention_softcap)},
      {"the softcap of the logits", Near(a.logits_softcap, b->logits_softcap)},
      {"the multipliers", Near(a.embedding_multiplier, b->embedding_multiplier) &&
                              Near(a.residual_multiplier, b->residual_multiplier) &&
                              Near(a.logits_multiplier, b->logits_multiplier)},
      {"the blocks", a.norm == b->norm && a.block == b->block && a.activation == b->activation && a.qk_norm == b->qk_norm &&
                         a.rope_interleaved == b->rope_interleaved && a.rotary_size() == b->rotary_size()},
  };
  for (const auto& part : parts) {
    if (part.same) continue;
    return absl::UnimplementedError(absl::StrCat("GGUF has no keys for ", part.part, " of this ", a.architecture,
                                                 " model: loaders would take others; export as \"merged\" instead"));
  }
  return absl::OkStatus();
}

}  // namespace finetuned::exports
