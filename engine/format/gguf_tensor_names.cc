#include "engine/format/gguf_tensor_names.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/format/model_layout.h"

namespace finetuned::format {
namespace {

struct Names {
  absl::string_view gguf, hf;  // without layer, and without ".weight" or ".bias"
};
constexpr Names kTop[] = {{"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
// Beside these ffn_norm: the norm before the MLP, whatever the family calls it. ffn_up is gate and up of families where
// they are one matrix.
constexpr Names kLayer[] = {{"attn_norm", "input_layernorm"},
                            {"attn_q", "self_attn.q_proj"},
                            {"attn_k", "self_attn.k_proj"},
                            {"attn_v", "self_attn.v_proj"},
                            {"attn_q_norm", "self_attn.q_norm"},
                            {"attn_k_norm", "self_attn.k_norm"},
                            {"attn_qkv", "self_attn.qkv_proj"},
                            {"attn_output", "self_attn.o_proj"},
                            {"ffn_gate", "mlp.gate_proj"},
                            {"ffn_up", "mlp.gate_up_proj"},
                            {"ffn_up", "mlp.up_proj"},
                            {"ffn_down", "mlp.down_proj"},
                            {"post_attention_norm", "post_attention_layernorm"},
                            {"post_ffw_norm", "post_feedforward_layernorm"}};

// "blk.3.attn_q.weight" with "blk." -> {"3", "attn_q", ".weight"}; layer empty without the prefix, stem without a dot.
struct Parts {
  absl::string_view layer, stem, kind;
};
Parts Split(absl::string_view name, absl::string_view prefix) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return {};
  Parts parts = {"", name.substr(0, dot), name.substr(dot)};
  if (!absl::ConsumePrefix(&parts.stem, prefix)) return parts;
  const size_t end = parts.stem.find('.');
  if (end == absl::string_view::npos) return {};
  parts.layer = parts.stem.substr(0, end);
  parts.stem = parts.stem.substr(end + 1);
  return parts;
}

bool IsOfFamily(const Names& names, const ModelConfig& config) {
  return names.gguf != "ffn_up" || (names.hf == "mlp.gate_up_proj") == config.fused_projections;
}

}  // namespace

std::string HfTensorName(absl::string_view gguf_name, const ModelConfig& config) {
  const Parts parts = Split(gguf_name, "blk.");
  if (!parts.stem.empty() && parts.layer.empty()) {
    for (const Names& names : kTop) {
      if (parts.stem == names.gguf) return absl::StrCat(names.hf, parts.kind);
    }
  } else if (!parts.stem.empty()) {
    absl::string_view found = parts.stem == "ffn_norm" ? absl::string_view(MlpNormName(config)) : "";
    for (const Names& names : kLayer) {
      if (parts.stem == names.gguf && IsOfFamily(names, config)) found = names.hf;
    }
    if (!found.empty()) return absl::StrCat("model.layers.", parts.layer, ".", found, parts.kind);
  }
  return std::string(gguf_name);
}

std::string GgufTensorName(absl::string_view hf_name, const ModelConfig& config) {
  const Parts parts = Split(hf_name, "model.layers.");
  if (parts.layer.empty()) {
    for (const Names& names : kTop) {
      if (parts.stem == names.hf) return absl::StrCat(names.gguf, parts.kind);
    }
    return "";
  }
  absl::string_view found;
  for (const Names& names : kLayer) {
    if (parts.stem == names.hf && IsOfFamily(names, config)) found = names.gguf;
  }
  if (parts.stem == MlpNormName(config)) found = "ffn_norm";  // not a norm of what is added where it has that name
  return found.empty() ? "" : absl::StrCat("blk.", parts.layer, ".", found, parts.kind);
}

bool IsGgufTable(absl::string_view name) {
  return name == "rope_freqs.weight" || name == "rope_factors_short.weight" || name == "rope_factors_long.weight" ||
         absl::EndsWith(name, ".attn_rot_embd.weight");
}

}  // namespace finetuned::format
