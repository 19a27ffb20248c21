#pragma once

#include <algorithm>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// Sequences of a rollout that decode together: more would read the weights less often, but each holds its part
// of the cache all the time.
inline constexpr int64_t kDecodeTogether = 64;

// The part of a GRPO run's memory that generation takes. The engine uses the same function. `completions`: of a
// rollout; `max_tokens`: prompt and completion of one sequence, `max_new_tokens` of these the completion.
inline Rollout RolloutOf(int64_t completions, int64_t max_tokens, int64_t max_new_tokens) {
  return {std::min(completions, kDecodeTogether), max_tokens, max_new_tokens};
}

}  // namespace finetuned::plan
