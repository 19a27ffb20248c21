#pragma once

#include "engine/plan/memory_plan.h"

// What a step costs in operations and time.
namespace finetuned::plan {

// Floating point operations of forward and backward for one token at context `mean_length`: 2 per
// multiply-add; frozen linears cost forward and input gradient, adapters and attention all three. Recompute
// repeats the layers but for their last product; the lm_head is never repeated.
double TrainFlopsPerToken(const PlanInput& input, double mean_length);

}  // namespace finetuned::plan
