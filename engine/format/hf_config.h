#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/format/model_config.h"

namespace finetuned::format {

// ModelConfig from the bytes of config.json, and of generation_config.json (may be empty) whose
// eos_token_id wins. Reads what transformers 4 and 5 write; absent fields take the defaults of
// the family (families/families.cc). `folder` is used in messages.
// INVALID_ARGUMENT names file, field, expected, found. UNIMPLEMENTED for other architectures
// (listing those supported), rope types, activations, quantized checkpoints.
absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_json,
                                          absl::string_view generation_config_json,
                                          const std::string& folder);

// config.json of the text part of a model with images (Gemma3ForConditionalGeneration): its "text_config", with the name of
// the text model and the token ids, tying and quantization that stand beside it. nullopt for other models.
// INVALID_ARGUMENT when there is none.
absl::StatusOr<std::optional<nlohmann::json>> TextPartOfConfig(const nlohmann::json& config, const std::string& name);

// The name of a tensor or module of a model's text part as that of the text model alone:
// "model.language_model.layers.0..." and "language_model.model.layers.0..." -> "model.layers.0...". Others stay.
std::string TextTensorName(absl::string_view name);

// Whether a tensor belongs to the images' part.
bool IsVisionTensor(absl::string_view name);

}  // namespace finetuned::format
