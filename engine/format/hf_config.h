#pragma once

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

}  // namespace finetuned::format
