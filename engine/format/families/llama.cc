// Llama 2 and 3, SmolLM 1 and 2; Mistral, Nemo: the same block, with heads of their own size and a window.
#include "engine/format/families/family.h"

namespace finetuned::format {

void ReadHfLlama(HfFields& fields, ModelConfig* config) {
  config->attention_bias = config->output_bias = fields.Bool("attention_bias", false);
  config->mlp_bias = fields.Bool("mlp_bias", false);
}

void ReadGgufLlama(const GgufFile& gguf, ModelConfig* config) {
  // llama.cpp writes llama3 scaling as one divisor per frequency.
  std::vector<float> divisors = gguf.Floats("rope_freqs.weight", config->rotary_size() / 2);
  if (divisors.empty()) return;
  if (config->rope_scaling.type != RopeScaling::Type::kNone) {
    return gguf.keys.Unsupported(".rope.scaling.type", "together with tensor rope_freqs.weight is not supported");
  }
  config->rope_scaling.type = RopeScaling::Type::kDivisors;
  config->rope_scaling.divisors = std::move(divisors);
}

void ReadHfMistral(HfFields& fields, ModelConfig* config) { ReadWindowOfAllLayers(fields, 4096, config); }

}  // namespace finetuned::format
