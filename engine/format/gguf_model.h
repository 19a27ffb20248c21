#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"

namespace finetuned::format {

// OpenModel for a .gguf file.
absl::StatusOr<std::shared_ptr<const ModelSource>> OpenGgufModel(const std::string& path);

}  // namespace finetuned::format
