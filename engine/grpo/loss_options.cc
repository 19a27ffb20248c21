#include "engine/grpo/loss_options.h"

#include <algorithm>

namespace finetuned::grpo {

const std::vector<std::string>& LossTypeNames() {
  // In the order of LossType.
  static const auto* const kNames = new std::vector<std::string>{
      "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"};
  return *kNames;
}

std::optional<LossType> ParseLossType(const std::string& name) {
  const std::vector<std::string>& names = LossTypeNames();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<LossType>(found - names.begin());
}

}  // namespace finetuned::grpo
