#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// Dequantized weights may stay for some of the first layers: a step then dequantizes theirs once in a run instead of twice
// a step, or three times where activations are computed again.

// Where nobody says otherwise all stay on a GPU where they take no more than this together and nothing is computed again
// for want of memory: a step of a small model is bound by launches.
inline constexpr int64_t kStandingWeightBytes = 512ll << 20;

// How many layers; the engine uses the same function. asked: so many, negative: decide. all_bytes: of all `layers`.
inline int64_t StandingLayers(int64_t asked, int64_t layers, int64_t all_bytes, bool on_gpu, bool recomputes) {
  if (asked >= 0) return std::min(asked, layers);
  return on_gpu && !recomputes && all_bytes <= kStandingWeightBytes ? layers : 0;
}

// Layers whose weights can stay: none of a base in the compute type, on the CPU, or with DoRA, which needs a buffer
// beside them.
int64_t MostStandingLayers(const PlanInput& input);
// Of these the ones that stay with this input.
int64_t PlannedStandingLayers(const PlanInput& input);

}  // namespace finetuned::plan
