#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"

namespace finetuned::format {

// OpenModel for a Hugging Face folder: config.json, generation_config.json (optional), weights in
// model.safetensors or the shards of model.safetensors.index.json, tokenizer.json,
// tokenizer_config.json and chat_template.jinja (optional; wins over tokenizer_config.json).
absl::StatusOr<std::shared_ptr<const ModelSource>> OpenHfFolder(const std::string& path);

}  // namespace finetuned::format
