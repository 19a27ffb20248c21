#include "engine/export/gguf_types.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace finetuned::exports {
namespace {

using format::DType;

constexpr GgufQuantization kQuantizations[] = {
    {"f32", DType::kF32, 0, 0.001},   {"f16", DType::kF16, 1, 0.005},   {"bf16", DType::kBF16, 32, 0.01},
    {"q8_0", DType::kQ8_0, 7, 0.02},  {"q6_k", DType::kQ6_K, 18, 0.03}, {"q5_k_m", DType::kQ5_K, 17, 0.2},
    {"q5_1", DType::kQ5_1, 9, 0.2},   {"q5_0", DType::kQ5_0, 8, 0.2},   {"q4_k_m", DType::kQ4_K, 15, 0.2},
    {"q4_1", DType::kQ4_1, 3, 0.25},  {"q4_0", DType::kQ4_0, 2, 0.4},
};

bool IsMix(const GgufQuantization& q) { return absl::EndsWith(q.name, "_k_m"); }

// Layers whose attn_v and ffn_down the mixes keep in Q6_K.
bool HasMoreBits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

int64_t LayerOf(absl::string_view name) {
  int64_t layer = -1;
  if (absl::StartsWith(name, "blk.")) {
    name.remove_prefix(4);
    if (!absl::SimpleAtoi(name.substr(0, name.find('.')), &layer)) return -1;
  }
  return layer;
}

DType Wanted(const GgufQuantization& q, const format::ModelConfig& config, absl::string_view name) {
  const bool head = name == "output.weight" || (config.tie_word_embeddings && name == "token_embd.weight");
  if (head) return q.type == DType::kQ8_0 ? DType::kQ8_0 : DType::kQ6_K;
  const int64_t layer = LayerOf(name), layers = config.num_hidden_layers;
  const bool value = absl::EndsWith(name, ".attn_v.weight");
  if (IsMix(q) && layer >= 0 && (value || absl::EndsWith(name, ".ffn_down.weight")) && HasMoreBits(layer, layers)) {
    return DType::kQ6_K;
  }
  // Llama 70B: eight query heads share each value head, so its bits are cheap.
  const bool shared = config.architecture == "llama" && layers == 80 &&
                      config.num_attention_heads != config.num_key_value_heads;
  if (value && shared && q.type == DType::kQ4_K) return DType::kQ5_K;
  if (IsMix(q) && absl::EndsWith(name, ".attn_qkv.weight")) {
    return q.type == DType::kQ4_K ? DType::kQ5_K : DType::kQ6_K;
  }
  return q.type;
}

DType Fitting(DType wanted, int64_t columns) {
  const auto fits = [columns](DType type) { return columns % format::BlockOf(type).elements == 0; };
  if (fits(wanted)) return wanted;
  DType smaller = wanted;
  if (wanted == DType::kQ4_K) smaller = DType::kQ5_0;
  if (wanted == DType::kQ5_K) smaller = DType::kQ5_1;
  if (wanted == DType::kQ6_K) smaller = DType::kQ8_0;
  return fits(smaller) ? smaller : DType::kF16;
}

}  // namespace

const GgufQuantization* FindGgufQuantization(absl::string_view name) {
  for (const GgufQuantization& q : kQuantizations) {
    if (name == q.name) return &q;
  }
  return nullptr;
}

std::vector<std::string> GgufQuantizationNames() {
  std::vector<std::string> names;
  for (const GgufQuantization& q : kQuantizations) names.push_back(q.name);
  return names;
}

DType GgufTypeOf(const GgufQuantization& quantization, const format::ModelConfig& config, absl::string_view name,
                 const std::vector<int64_t>& shape) {
  const bool matrix = shape.size() > 1 && absl::EndsWith(name, "weight") && !absl::StrContains(name, "_norm.weight");
  if (!matrix) return DType::kF32;
  if (format::BlockOf(quantization.type).elements == 1) return quantization.type;
  return Fitting(Wanted(quantization, config, name), shape.back());
}

}  // namespace finetuned::exports
