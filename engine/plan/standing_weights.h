#pragma once

#include <cstdint>

namespace finetuned::plan {

// On a GPU, dequantized weights of all layers stay where they take no more than this together and nothing is computed
// again for want of memory: a step of a small model is bound by launches. The engine uses the same bound.
inline constexpr int64_t kStandingWeightBytes = 512ll << 20;

}  // namespace finetuned::plan
