#include "engine/plan/adapter_shape.h"

#include <algorithm>

namespace finetuned::plan {
namespace {

std::vector<std::string> Keys(const std::map<std::string, int64_t>& patterns) {
  std::vector<std::string> keys;
  for (const auto& [key, rank] : patterns) keys.push_back(key);
  return keys;
}

template <typename T>
bool Contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

AdapterShape::AdapterShape(int64_t rank, const std::map<std::string, int64_t>& rank_pattern,
                           const std::vector<int64_t>& layers, const std::vector<std::string>& targets)
    : rank_(rank), patterns_(Keys(rank_pattern)), layers_(layers) {
  for (const auto& [key, value] : rank_pattern) pattern_ranks_.push_back(value);
  if (!Contains<std::string>(targets, "all-linear")) targets_ = targets;
}

int64_t AdapterShape::Rank(int64_t layer, const std::string& linear) const {
  if (!layers_.empty() && !Contains(layers_, layer)) return 0;
  if (!targets_.empty() && !Contains(targets_, linear)) return 0;
  if (patterns_.empty()) return rank_;
  const int place = patterns_.First(ModuleName(layer, linear));
  return place < 0 ? rank_ : pattern_ranks_[static_cast<size_t>(place)];
}

}  // namespace finetuned::plan
