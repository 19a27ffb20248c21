// Qwen 2 and 2.5: biases of q, k, v. Qwen 3: none, but norms of q and k.
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

// The first max_window_layers layers are full.
bool FirstAreFull(int64_t layer, int64_t count) { return layer < count; }

void ReadWindows(HfFields& fields, ModelConfig* config) {
  if (!fields.Bool("use_sliding_window", false)) return;
  ReadWindowByLayer(fields, 4096, FirstAreFull, fields.Int("max_window_layers", 28), config);
}

}  // namespace

void ReadHfQwen2(HfFields& fields, ModelConfig* config) {
  config->attention_bias = true;
  ReadWindows(fields, config);
}

void ReadGgufQwen2(const GgufFile&, ModelConfig* config) { config->attention_bias = true; }

void ReadHfQwen3(HfFields& fields, ModelConfig* config) {
  config->qk_norm = QkNorm::kShared;
  config->attention_bias = config->output_bias = fields.Bool("attention_bias", false);
  ReadWindows(fields, config);
}

void ReadGgufQwen3(const GgufFile&, ModelConfig* config) { config->qk_norm = QkNorm::kShared; }

}  // namespace finetuned::format
