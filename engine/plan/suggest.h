#pragma once

#include <string>
#include <vector>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// A changed setting that makes the plan fit.
struct Suggestion {
  PlanInput input;
  std::vector<std::string> fields;  // spec paths that changed, e.g. "schedule.micro_batch_size"
  int64_t total_bytes = 0;
  std::string message;              // "set schedule.micro_batch_size 2: 21.8 GB"
};

// Settings near `input` whose plan fits `budget_bytes`, cheapest change first; empty when none does. Every suggestion
// fits. One setting alone is tried first; then two or more together, as few as are needed. Inputs of layers go to host
// memory only where `host_bytes` hold them; 0: never.
std::vector<Suggestion> SuggestFitting(const PlanInput& input, int64_t budget_bytes, int64_t host_bytes);

}  // namespace finetuned::plan
