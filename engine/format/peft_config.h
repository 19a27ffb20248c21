#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::format {

// What adapter_config.json of a PEFT folder says of a LoRA adapter.
struct PeftConfig {
  int64_t rank = 8;
  double alpha = 8, dropout = 0;
  bool use_rslora = false, use_dora = false;
  std::vector<std::string> target_modules;  // as written; "all-linear" alone where it is a text
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<int64_t> layers;  // layers_to_transform; empty: all
  std::vector<std::string> modules_to_save;  // "embed_tokens", "lm_head"
  std::string bias = "none";                 // "all", "lora_only"
};

// NOT_FOUND without the file. INVALID_ARGUMENT names file, key and value of what this engine cannot continue (another
// peft_type, other modules_to_save, trained tokens).
absl::StatusOr<PeftConfig> ReadPeftConfig(const std::string& directory);

// What a tensor of an adapter is called without "base_model.model." and what PEFT puts around modules that are saved whole,
// with names of the text model alone (TextTensorName): "model.layers.0.self_attn.q_proj.lora_A.weight", "lm_head.weight". Empty for
// copies of the base's modules, which PEFT saves beside those when embeddings were resized. INVALID_ARGUMENT for other prefixes.
absl::StatusOr<std::string> AdapterTensorName(const std::string& stored);

}  // namespace finetuned::format
