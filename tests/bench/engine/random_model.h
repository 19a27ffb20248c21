// Models of a known shape with random weights: what speed and memory are measured on.
#pragma once

#include <memory>
#include <string>

#include "engine/data/packing.h"
#include "engine/model/base_model.h"

namespace finetuned::bench {

// A name of engine/plan/shapes.h, without its limit of positions. Another name ends the program with a list.
format::ModelConfig Shape(const std::string& name);

// Weights normal with deviation 0.02, quantized as the loader does it.
std::shared_ptr<model::BaseModel> RandomModel(const format::ModelConfig& config, const model::LoadOptions& options);

// `documents` of `length` random tokens, every token a target but the first of each.
data::PackedBatch RandomBatch(const format::ModelConfig& config, int64_t documents, int64_t length);

}  // namespace finetuned::bench
