// Models of a known shape with random weights: what memory and speed are measured on.
#pragma once

#include <memory>

#include "engine/data/packing.h"
#include "engine/model/base_model.h"

namespace finetuned::model {

// Weights normal with deviation 0.02, quantized as the loader does it.
std::shared_ptr<BaseModel> RandomModel(const format::ModelConfig& config, const LoadOptions& options);

// `documents` of `length` random tokens, every token a target but the first of each.
data::PackedBatch RandomBatch(const format::ModelConfig& config, int64_t documents, int64_t length);

}  // namespace finetuned::model
