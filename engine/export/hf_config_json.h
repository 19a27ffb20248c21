#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/format/model_config.h"
#include "engine/format/tensor_info.h"

namespace finetuned::exports {

// "float32", "float16", "bfloat16".
const char* TorchName(format::DType dtype);

// config.json of a model that was read from GGUF, as transformers reads it; weights are stored as `dtype`. UNIMPLEMENTED when
// its rotary table is not that of a scaling with a name.
absl::StatusOr<nlohmann::ordered_json> HfConfigJson(const format::ModelConfig& config, std::optional<int32_t> pad_token_id,
                                                    format::DType dtype);

}  // namespace finetuned::exports
