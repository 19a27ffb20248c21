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

// Answers to held-out prompts at evaluations: so many together, prompt and answer of so many tokens at most.
// Says nothing of the rows that train: max_new_tokens stays 0.
inline constexpr int64_t kSamplesTogether = 4, kSampleTokens = 1024, kSampleAnswerTokens = 256;

inline Rollout EvalSamples(int64_t prompts, int64_t max_seq_length) {
  return {std::min(prompts, kSamplesTogether), std::min(max_seq_length, kSampleTokens)};
}

}  // namespace finetuned::plan
