// Cohere's Command: attention and MLP beside each other, LayerNorm, interleaved rotary pairs, scaled logits. Command R7B
// (Cohere 2): windows in three of four layers, and no positions in the others.
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

void SetCohere(ModelConfig* config) {
  config->norm = NormKind::kLayer;
  config->block = BlockKind::kParallel;
  config->rope_interleaved = true;
}

// Layers without a window have no positions.
void RotateWindowsOnly(ModelConfig* config) {
  for (LayerKind& kind : config->layer_kinds) kind.rope = kind.window > 0;
}

void ReadHf(HfFields& fields, ModelConfig* config) {
  SetCohere(config);
  config->rms_norm_eps = fields.Number("layer_norm_eps", 1e-5);
  config->logits_multiplier = fields.Number("logit_scale", 0.0625);
  config->attention_bias = config->output_bias = fields.Bool("attention_bias", false);
}

void ReadGguf(const GgufFile& gguf, ModelConfig* config) {
  SetCohere(config);
  config->rms_norm_eps = gguf.keys.Number(".attention.layer_norm_epsilon").value_or(1e-5);
  config->logits_multiplier = gguf.keys.Number(".logit_scale").value_or(0.0625);
}

}  // namespace

void ReadHfCohere(HfFields& fields, ModelConfig* config) {
  ReadHf(fields, config);
  if (fields.Bool("use_qk_norm", false)) config->qk_norm = QkNorm::kPerHead;
}

void ReadGgufCohere(const GgufFile& gguf, ModelConfig* config) {
  ReadGguf(gguf, config);
  if (gguf.Find("blk.0.attn_q_norm.weight") != nullptr) config->qk_norm = QkNorm::kPerHead;
}

void ReadHfCohere2(HfFields& fields, ModelConfig* config) {
  ReadHf(fields, config);
  ReadWindowByLayer(fields, 4096, LastOfPatternIsFull, fields.Int("sliding_window_pattern", 4), config);
  if (config->layer_kinds.empty()) fields.Unsupported("sliding_window: expected below max_position_embeddings");
  RotateWindowsOnly(config);
}

void ReadGgufCohere2(const GgufFile& gguf, ModelConfig* config) {
  ReadGguf(gguf, config);
  ReadGgufWindow(gguf, 4, config);
  if (config->layer_kinds.empty()) gguf.keys.Unsupported(".attention.sliding_window", "must be below the context");
  RotateWindowsOnly(config);
}

}  // namespace finetuned::format
