#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/export/gguf_model_keys.h"
#include "engine/format/model_source.h"

namespace finetuned::exports {

// Everything of a GGUF file of this architecture but the weights; see WriteGguf.
absl::StatusOr<GgufHead> BaseMetadata(const format::ModelSource& base, const std::string& base_path, const std::string& architecture,
                                      const std::string& name, uint32_t file_type);

}  // namespace finetuned::exports
