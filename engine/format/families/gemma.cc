// Gemma 1, 2 and 3 (text): embeddings times sqrt(hidden size), norms in float32 with 1 + weight, a GELU gate. Gemma 2
// normalizes what attention and MLP add, caps scores and logits, and has windows in every other layer; Gemma 3
// normalizes q and k instead of capping, and has windows and a rotary base of their own in five of six layers.
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

void SetGemma(bool hf, ModelConfig* config) {
  config->norm = NormKind::kRmsFloat;
  config->norm_weight_plus_one = hf;
  config->activation = Activation::kGeluTanh;
  config->embedding_multiplier = std::sqrt(static_cast<double>(config->hidden_size));
}

void ReadActivation(HfFields& fields) {
  const std::string activation = fields.String("hidden_activation", "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") {
    fields.Unsupported("hidden_activation: expected gelu_pytorch_tanh, found " + activation);
  }
}

// The inverse of the square root of query_pre_attn_scalar.
void ReadScoreScale(HfFields& fields, ModelConfig* config) {
  const double scalar = fields.Number("query_pre_attn_scalar", 256.0);
  if (!(scalar > 0)) return fields.Invalid("query_pre_attn_scalar: expected above 0");
  config->attention_scale = 1.0 / std::sqrt(scalar);
}

void ReadBiases(HfFields& fields, ModelConfig* config) {
  config->attention_bias = config->output_bias = fields.Bool("attention_bias", false);
}

// Llama.cpp knows the scale of the scores by the model's size: of the head size, of hidden size / heads in the largest.
void SetGgufScale(int64_t largest_layers, ModelConfig* config) {
  if (config->num_hidden_layers != largest_layers) return;
  config->attention_scale = 1.0 / std::sqrt(static_cast<double>(config->hidden_size / config->num_attention_heads));
}

// Layers with windows take the local table, also where the window is as long as the context and not kept. types: by
// layer, or empty: all but every pattern-th.
void SetLocalRope(const std::vector<std::string>& types, int64_t pattern, double theta, ModelConfig* config) {
  config->layer_kinds.resize(static_cast<size_t>(config->num_hidden_layers));
  config->local_rope_theta = theta;
  for (size_t i = 0; i < config->layer_kinds.size(); ++i) {
    config->layer_kinds[i].local_rope =
        i < types.size() ? types[i] == "sliding_attention" : !LastOfPatternIsFull(static_cast<int64_t>(i), pattern);
  }
}

}  // namespace

void ReadHfGemma(HfFields& fields, ModelConfig* config) {
  SetGemma(/*hf=*/true, config);
  ReadActivation(fields);
  ReadBiases(fields, config);
}

void ReadGgufGemma(const GgufFile&, ModelConfig* config) { SetGemma(/*hf=*/false, config); }

void ReadHfGemma2(HfFields& fields, ModelConfig* config) {
  ReadHfGemma(fields, config);
  config->block = BlockKind::kPostNorms;
  ReadScoreScale(fields, config);
  if (!fields.IsNull("attn_logit_softcapping")) config->attention_softcap = fields.Number("attn_logit_softcapping", 50.0);
  if (!fields.IsNull("final_logit_softcapping")) config->logits_softcap = fields.Number("final_logit_softcapping", 30.0);
  ReadWindowByLayer(fields, 4096, LastOfPatternIsFull, 2, config);
}

void ReadGgufGemma2(const GgufFile& gguf, ModelConfig* config) {
  SetGemma(/*hf=*/false, config);
  config->block = BlockKind::kPostNorms;
  SetGgufScale(/*largest_layers=*/46, config);
  config->attention_softcap = gguf.keys.Number(".attn_logit_softcapping").value_or(50.0);
  config->logits_softcap = gguf.keys.Number(".final_logit_softcapping").value_or(30.0);
  ReadGgufWindow(gguf, 2, config);
}

void ReadHfGemma3(HfFields& fields, ModelConfig* config) {
  ReadHfGemma(fields, config);
  config->block = BlockKind::kPostNorms;
  config->qk_norm = QkNorm::kShared;
  ReadScoreScale(fields, config);
  config->attention_softcap = fields.Number("attn_logit_softcapping", 0.0);
  config->logits_softcap = fields.Number("final_logit_softcapping", 0.0);
  if (fields.Bool("use_bidirectional_attention", false)) {
    fields.Unsupported("use_bidirectional_attention: expected false, found true");
  }
  const int64_t pattern = fields.Int("sliding_window_pattern", fields.Int("_sliding_window_pattern", 6));
  ReadWindowByLayer(fields, 4096, LastOfPatternIsFull, pattern, config);
  double local = fields.Number("rope_local_base_freq", 10000.0);
  const nlohmann::json* by_layer = fields.Find("rope_parameters");
  if (by_layer != nullptr && by_layer->is_object() && by_layer->contains("full_attention")) {
    ReadRopeScaling((*by_layer)["full_attention"], "rope_parameters: full_attention", fields, config);
    const auto sliding = by_layer->find("sliding_attention");
    if (sliding != by_layer->end() && sliding->is_object()) {
      HfFields rope(*sliding, fields.name() + ": rope_parameters: sliding_attention");
      local = rope.Number("rope_theta", local);
      if (rope.String("rope_type", "default") != "default") rope.Unsupported("rope_type: expected default");
      fields.Adopt(rope.status());
    }
  }
  SetLocalRope(fields.Strings("layer_types"), pattern, local, config);
}

void ReadGgufGemma3(const GgufFile& gguf, ModelConfig* config) {
  SetGemma(/*hf=*/false, config);
  config->block = BlockKind::kPostNorms;
  config->qk_norm = QkNorm::kShared;
  SetGgufScale(/*largest_layers=*/62, config);
  config->logits_softcap = gguf.keys.Number(".final_logit_softcapping").value_or(0.0);
  ReadGgufWindow(gguf, 6, config);
  SetLocalRope({}, 6, gguf.keys.Number(".rope.freq_base_swa").value_or(10000.0), config);
}

}  // namespace finetuned::format
