#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// Other settings for the same optimizer step.
struct FallBack {
  PlanInput input;
  int64_t accumulation = 1;
  std::string changes;  // "activation_checkpointing off -> on, micro_batch_size 4 -> 2 with gradient_accumulation_steps 1 -> 2"
};

// What a run goes on with when its memory was taken: recompute first, of as few layers as fit, which costs time alone;
// then inputs of layers in host memory, where `host_bytes` hold them (0: not at all); then smaller micro-batches with as
// much more accumulation, so that every optimizer step sees the same rows. The first of these whose plan is at most
// `available_bytes` (0: not known; then the next one, and recompute is of everything). Empty: there is none.
std::optional<FallBack> NextPlan(const PlanInput& input, int64_t accumulation, int64_t available_bytes,
                                 int64_t host_bytes);

}  // namespace finetuned::plan
