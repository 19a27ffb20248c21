// How the next token of a sequence is chosen, and when the sequence ends.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace finetuned::generate {

// Applied in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
struct SamplingOptions {
  int64_t max_new_tokens = 128;     // > 0
  double temperature = 1.0;         // 0: greedy, the others but the penalty then change nothing
  int64_t top_k = 0;                // keep the k most probable (and ties with the last); 0: all
  double top_p = 1.0;               // (0, 1]: fewest most probable tokens whose sum reaches top_p; 1: all
  double min_p = 0.0;               // [0, 1]: keep p >= min_p * largest p; 0: all
  double repetition_penalty = 1.0;  // > 0: logits of tokens in prompt or answer, as transformers; 1: off
  // End the sequence; the id itself is the last token of the result.
  std::vector<int32_t> eos_ids;
  // Sample s draws its noise at answer position t for vocabulary entry v from Philox(v, s, t; seed): two requests
  // with the same prompt and seed repeat each other, whatever else runs beside them, up to the rounding of
  // products over batches of different sizes.
  uint64_t seed = 42;
};

// INVALID_ARGUMENT names the field, what it is and what it may be.
absl::Status ValidateSampling(const SamplingOptions& options);

}  // namespace finetuned::generate
