#include "engine/export/gguf_names.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace finetuned::exports {
namespace {

// Architectures whose tensors have the same content in both formats, but for the order of rows of q and k.
struct Architecture {
  const char* name;
  bool interleaved_rope;
};
constexpr Architecture kArchitectures[] = {{"llama", true}, {"qwen2", false}, {"qwen3", false}};

const std::map<absl::string_view, const char*>& Stems() {
  static const auto& kStems = *new std::map<absl::string_view, const char*>{
      {"model.embed_tokens", "token_embd"},   {"model.norm", "output_norm"},
      {"lm_head", "output"},                  {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},         {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},         {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},    {"self_attn.k_norm", "attn_k_norm"},
      {"post_attention_layernorm", "ffn_norm"}, {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},              {"mlp.down_proj", "ffn_down"}};
  return kStems;
}

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; empty when it has no name.
std::string GgufName(absl::string_view name) {
  const size_t dot = name.rfind('.');
  absl::string_view stem = name.substr(0, dot), kind = name.substr(dot);
  std::string prefix;
  if (absl::ConsumePrefix(&stem, "model.layers.")) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(stem, absl::MaxSplits('.', 1));
    prefix = absl::StrCat("blk.", parts.first, ".");
    stem = parts.second;
  }
  const auto it = Stems().find(stem);
  return it == Stems().end() ? "" : absl::StrCat(prefix, it->second, kind);
}

}  // namespace

absl::StatusOr<GgufNames> GgufNamesOf(const format::ModelSource& base) {
  const std::string& architecture = base.config().architecture;
  const auto known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                  [&](const Architecture& a) { return architecture == a.name; });
  if (known == std::end(kArchitectures)) {
    return absl::UnimplementedError(absl::StrCat("models of architecture ", architecture,
                                                 " cannot be written as GGUF; supported: llama, qwen2, qwen3. Export as \"merged\" "
                                                 "and convert that folder with llama.cpp"));
  }
  GgufNames names;
  names.architecture = known->name;
  names.interleaved_rope = known->interleaved_rope;
  for (const format::TensorInfo& tensor : base.tensors()) {
    const std::string name = GgufName(tensor.name);
    if (name.empty()) return absl::UnimplementedError(absl::StrCat("tensor ", tensor.name, " has no name in GGUF"));
    names.to_gguf[tensor.name] = name;
  }
  return names;
}

int64_t InterleavedHeads(const GgufNames& names, const format::ModelConfig& config, const std::string& hf_name) {
  if (!names.interleaved_rope) return 0;
  if (absl::StrContains(hf_name, ".q_proj.")) return config.num_attention_heads;
  if (absl::StrContains(hf_name, ".k_proj.")) return config.num_key_value_heads;
  return 0;
}

void InterleaveRows(int64_t heads, int64_t rows, std::vector<float>* numbers) {
  const int64_t columns = static_cast<int64_t>(numbers->size()) / rows, half = rows / heads / 2;
  std::vector<float> out(numbers->size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / (2 * half), pair = row % (2 * half) / 2, which = row % 2;
    const int64_t source = head * 2 * half + which * half + pair;
    std::copy_n(numbers->begin() + source * columns, columns, out.begin() + row * columns);
  }
  *numbers = std::move(out);
}

}  // namespace finetuned::exports
