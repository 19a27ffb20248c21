// An adapter as the files PEFT writes and reads: adapter_config.json (sorted keys, indent 2),
// adapter_model.safetensors (float32, names "base_model.model.model.layers.0.self_attn.q_proj.
// lora_A.weight" and ".lora_B.weight", of DoRA ".lora_magnitude_vector", and
// whole modules as "base_model.model.lm_head.weight") and README.md. Source: peft 0.21.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/model_source.h"
#include "engine/lora/adapter.h"

namespace finetuned::lora {

struct PeftDescription {
  std::string base_model_name;  // base_model_name_or_path
  std::string title;            // of README.md
  const format::TokenizerTexts* tokenizer = nullptr;  // of a base with new tokens; must outlive this
};

// Writes the three files, and the tokenizer's if there is one, into an existing folder; syncing them is up to the caller. Waits for the
// device.
absl::Status SavePeft(const Adapter& adapter, const PeftDescription& description,
                      const std::string& directory);

// What adapter_config.json asks for. INVALID_ARGUMENT names file, key and value for what this engine
// cannot continue (another peft_type, bias, other modules_to_save).
absl::StatusOr<Options> ReadPeftConfig(const std::string& directory);

// Fills the parameters from adapter_model.safetensors (float32, float16 or bfloat16). Every matrix must be
// there with its shape and finite numbers, and nothing else: INVALID_ARGUMENT names file, tensor, expected and found.
absl::Status LoadPeftWeights(const std::string& directory, Adapter* adapter);

// The adapter of a PEFT folder, ready for passes. Errors of ReadPeftConfig and LoadPeftWeights.
absl::StatusOr<std::unique_ptr<Adapter>> LoadPeftFolder(const std::string& directory, const format::ModelConfig& config,
                                                        at::Device device, at::ScalarType compute_dtype);

}  // namespace finetuned::lora
