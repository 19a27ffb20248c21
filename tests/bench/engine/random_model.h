// Random models of well-known shapes.
#pragma once

#include <string>

#include "engine/model/random_model.h"

namespace finetuned::bench {

using model::RandomBatch;
using model::RandomModel;

// A name of engine/plan/shapes.h, without its limit of positions. Another name ends the program with a list.
format::ModelConfig Shape(const std::string& name);

}  // namespace finetuned::bench
