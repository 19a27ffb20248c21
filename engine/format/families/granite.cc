// Granite: a Llama whose embeddings, scores, residual branches and logits have multipliers.
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

// The multiplier of what attention and MLP add rides on their inputs (model/layer.cc), which biases do not pass.
bool BiasBesideMultiplier(const ModelConfig& config) {
  return config.residual_multiplier != 1 && (config.output_bias || config.mlp_bias);
}

}  // namespace

void ReadHfGranite(HfFields& fields, ModelConfig* config) {
  ReadHfLlama(fields, config);
  config->embedding_multiplier = fields.Number("embedding_multiplier", 1.0);
  config->residual_multiplier = fields.Number("residual_multiplier", 1.0);
  config->attention_scale = fields.Number("attention_multiplier", 1.0);
  config->logits_multiplier = 1.0 / fields.Number("logits_scaling", 1.0);
  if (BiasBesideMultiplier(*config)) {
    fields.Unsupported("attention_bias and mlp_bias: expected false beside a residual_multiplier");
  }
}

void ReadGgufGranite(const GgufFile& gguf, ModelConfig* config) {
  ReadGgufLlama(gguf, config);
  config->embedding_multiplier = gguf.keys.Number(".embedding_scale").value_or(1.0);
  config->residual_multiplier = gguf.keys.Number(".residual_scale").value_or(1.0);
  config->attention_scale = gguf.keys.Number(".attention.scale").value_or(0.0);
  config->logits_multiplier = 1.0 / gguf.keys.Number(".logit_scale").value_or(1.0);
  if (BiasBesideMultiplier(*config)) gguf.keys.Unsupported(".residual_scale", "beside biases is not supported");
}

}  // namespace finetuned::format
