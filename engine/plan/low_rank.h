#pragma once

#include <cstdint>
#include <vector>

#include "engine/plan/memory_plan.h"

// Sizes of the fused gradients of adapters (kernels/low_rank_gradients.h, kernels/gate_low_rank.h).
namespace finetuned::plan {

struct LowRankSums {
  int64_t splits = 1;    // parts of the rows that are summed apart
  int64_t elements = 0;  // float32 of scratch
};

// For adapters of one rank on outputs of these widths.
LowRankSums LowRankSumsOf(const std::vector<int64_t>& widths, int64_t rank, int64_t rows);

// For adapters of one rank on gate and up, whose gradient is formed in the same pass (kernels/gate_low_rank.h).
LowRankSums GateLowRankSumsOf(int64_t intermediate_size, int64_t rank, int64_t rows);

// Elements of the largest scratch of a step that works on `rows` rows at a time; 0 where nothing is fused.
int64_t LowRankGradientElements(const PlanInput& input, int64_t rows);

}  // namespace finetuned::plan
