#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace finetuned::grpo {

struct RolloutCompletion {
  std::vector<int32_t> tokens;       // the end token included
  std::string text;                  // without special tokens
  bool truncated = false;            // it hit the token limit
  std::vector<double> scores;        // by reward, NaN: it abstained; empty: not scored yet
  double reward = std::numeric_limits<double>::quiet_NaN();  // weighted sum; NaN: none
  double advantage = 0;
  std::vector<float> old_log_probs;  // of the tokens when sampled; empty: the rollout makes one step only
};

// Completions sampled together from one state of the adapter, and what they were worth.
struct Rollout {
  int64_t index = 0;                 // from 0 since the start of the run
  std::vector<int64_t> prompts;      // indices into the prompts
  int64_t group_size = 0;
  std::vector<RolloutCompletion> completions;  // [prompts][group_size]
  std::vector<uint8_t> dropped;      // by prompt: 1 when its group could not be scored
  bool scored = false;
  std::map<std::string, double> metrics;  // TRL's names, see docs/grpo.md
};

}  // namespace finetuned::grpo
