#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace re2 {
class RE2;
}

namespace finetuned::plan {

// Regular expressions on module names, as PEFT's rank_pattern reads them: one matches a name as a whole or from behind
// a dot on, so "down_proj" matches "model.layers.3.mlp.down_proj", and "layers\.[01]\..*" all of the first two layers.
// Immutable, thread safe.
class ModulePatterns {
 public:
  // A pattern that is no regular expression matches nothing: see CheckModulePattern.
  explicit ModulePatterns(const std::vector<std::string>& patterns);

  bool empty() const { return patterns_.empty(); }
  bool Matches(const std::string& module) const { return First(module) >= 0; }
  // The place of the first pattern that matches; -1: none.
  int First(const std::string& module) const;

 private:
  std::vector<std::shared_ptr<const re2::RE2>> patterns_;
};

// INVALID_ARGUMENT says what is wrong.
absl::Status CheckModulePattern(const std::string& pattern);

// "model.layers.3.mlp.down_proj" for layer 3 and "down_proj".
std::string ModuleName(int64_t layer, const std::string& linear);

}  // namespace finetuned::plan
