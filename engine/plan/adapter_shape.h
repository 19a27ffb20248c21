#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/plan/module_pattern.h"

namespace finetuned::plan {

// Which linears have an adapter, and of what rank: the plan and the engine ask the same.
class AdapterShape {
 public:
  // targets: names of linears, "all-linear" or none for all. rank_pattern: see module_pattern.h; of several patterns
  // the first in alphabetical order counts, as when PEFT reads it from adapter_config.json. layers: empty for all.
  AdapterShape(int64_t rank, const std::map<std::string, int64_t>& rank_pattern, const std::vector<int64_t>& layers,
               const std::vector<std::string>& targets);

  // 0: no adapter.
  int64_t Rank(int64_t layer, const std::string& linear) const;
  // All layers are alike.
  bool uniform() const { return patterns_.empty() && layers_.empty(); }

 private:
  const int64_t rank_;
  ModulePatterns patterns_;
  std::vector<int64_t> pattern_ranks_;
  const std::vector<int64_t> layers_;
  std::vector<std::string> targets_;  // empty: all
};

}  // namespace finetuned::plan
