// SmolLM 3: a Llama whose every fourth layer has no rotary embedding.
#include "absl/strings/str_cat.h"
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

void RotateAllBut(int64_t interval, ModelConfig* config) {
  config->layer_kinds.resize(static_cast<size_t>(config->num_hidden_layers));
  for (int64_t i = 0; i < config->num_hidden_layers; ++i) {
    config->layer_kinds[static_cast<size_t>(i)].rope = !LastOfPatternIsFull(i, interval);
  }
}

}  // namespace

void ReadHfSmolLm3(HfFields& fields, ModelConfig* config) {
  ReadHfLlama(fields, config);
  if (fields.Bool("use_sliding_window", false)) {
    return fields.Unsupported("use_sliding_window: expected false, found true");
  }
  RotateAllBut(fields.Int("no_rope_layer_interval", 4), config);
  const std::vector<float> rotated = fields.Numbers("no_rope_layers");  // 1: rotated
  if (rotated.empty()) return;
  if (rotated.size() != config->layer_kinds.size()) {
    return fields.Invalid(absl::StrCat("no_rope_layers: expected ", config->num_hidden_layers, " of them, found ",
                                       rotated.size()));
  }
  for (size_t i = 0; i < rotated.size(); ++i) config->layer_kinds[i].rope = rotated[i] != 0;
}

void ReadGgufSmolLm3(const GgufFile& gguf, ModelConfig* config) {
  ReadGgufLlama(gguf, config);
  RotateAllBut(4, config);  // no key says so; llama.cpp knows it, too
}

}  // namespace finetuned::format
