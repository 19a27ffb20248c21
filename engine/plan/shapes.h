#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_config.h"

namespace finetuned::plan {

// Configurations of well-known models, by the names their publishers use in lower case ("llama-3.1-8b"): what can be
// planned without a file. Values are those of the published config.json.
absl::StatusOr<format::ModelConfig> FindShape(const std::string& name);  // NOT_FOUND lists the names

std::vector<std::string> ShapeNames();

}  // namespace finetuned::plan
