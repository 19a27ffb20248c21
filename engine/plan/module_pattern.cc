#include "engine/plan/module_pattern.h"

#include <re2/re2.h>

#include "absl/strings/str_cat.h"

namespace finetuned::plan {
namespace {

std::shared_ptr<const re2::RE2> Compile(const std::string& pattern) {
  return std::make_shared<const re2::RE2>(absl::StrCat("(?:.*\\.)?(?:", pattern, ")"), re2::RE2::Quiet);
}

}  // namespace

ModulePatterns::ModulePatterns(const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) patterns_.push_back(Compile(pattern));
}

int ModulePatterns::First(const std::string& module) const {
  for (size_t i = 0; i < patterns_.size(); ++i) {
    if (patterns_[i]->ok() && re2::RE2::FullMatch(module, *patterns_[i])) return static_cast<int>(i);
  }
  return -1;
}

absl::Status CheckModulePattern(const std::string& pattern) {
  if (pattern.empty()) return absl::InvalidArgumentError("is empty");
  if (pattern.size() > 1000) return absl::InvalidArgumentError("is longer than 1000 characters");
  const auto compiled = Compile(pattern);
  if (compiled->ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("is no regular expression: ", compiled->error()));
}

std::string ModuleName(int64_t layer, const std::string& linear) {
  const bool mlp = linear == "gate_proj" || linear == "up_proj" || linear == "gate_up_proj" || linear == "down_proj";
  return absl::StrCat("model.layers.", layer, mlp ? ".mlp." : ".self_attn.", linear);
}

}  // namespace finetuned::plan
