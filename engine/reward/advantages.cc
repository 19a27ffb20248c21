#include "engine/reward/advantages.h"

#include <cmath>
#include <limits>

namespace finetuned::reward {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kEpsilon = 1e-4;
constexpr double kZero = 1e-8;  // torch.isclose to 0

struct Moments {
  double mean = kNaN, std = kNaN;
};

// Of count values, `stride` apart, without the NaN.
Moments MomentsOf(const double* values, size_t count, size_t stride = 1) {
  double sum = 0, squares = 0;
  int64_t n = 0;
  for (size_t i = 0; i < count; ++i) {
    const double v = values[i * stride];
    if (std::isnan(v)) continue;
    sum += v;
    ++n;
  }
  if (n == 0) return {};
  const double mean = sum / static_cast<double>(n);
  if (n == 1) return {mean, kNaN};
  for (size_t i = 0; i < count; ++i) {
    const double v = values[i * stride];
    if (!std::isnan(v)) squares += (v - mean) * (v - mean);
  }
  return {mean, std::sqrt(squares / static_cast<double>(n - 1))};
}

std::vector<double> WeightedSums(std::span<const double> scores, std::span<const double> weights) {
  const size_t k = weights.size();
  std::vector<double> sums;
  for (size_t row = 0; row + k <= scores.size(); row += k) {
    double sum = 0;
    bool any = false;
    for (size_t j = 0; j < k; ++j) {
      if (std::isnan(scores[row + j])) continue;
      sum += weights[j] * scores[row + j];
      any = true;
    }
    sums.push_back(any ? sum : kNaN);
  }
  return sums;
}

// Each score less its group's mean, over its group's standard deviation.
std::vector<double> NormalizedInGroups(std::span<const double> scores, size_t k, size_t group) {
  std::vector<double> out(scores.begin(), scores.end());
  for (size_t first = 0; first < scores.size(); first += group * k) {
    for (size_t j = 0; j < k; ++j) {
      const Moments m = MomentsOf(&scores[first + j], group, k);
      for (size_t i = 0; i < group; ++i) {
        double& score = out[first + i * k + j];
        score = (score - m.mean) / (m.std + kEpsilon);
      }
    }
  }
  return out;
}

void Normalize(double mean, double std, std::span<double> values) {
  for (double& v : values) v = (v - mean) / (std + kEpsilon);
}

}  // namespace

Advantages ComputeAdvantages(std::span<const double> scores, std::span<const double> weights,
                             const AdvantageOptions& options) {
  using Scale = AdvantageOptions::Scale;
  const size_t k = weights.size(), group = static_cast<size_t>(options.group_size);
  Advantages out;
  out.rewards = WeightedSums(scores, weights);
  const size_t n = out.rewards.size();
  for (size_t j = 0; j < k; ++j) {
    const Moments m = MomentsOf(&scores[j], n, k);
    out.means.push_back(m.mean);
    out.stds.push_back(m.std);
  }
  const Moments all = MomentsOf(out.rewards.data(), n);
  out.reward_mean = all.mean;
  out.reward_std = all.std;

  // With normalize_each the sums of normalized scores take the place of the rewards.
  std::vector<double> values = options.normalize_each
                                   ? WeightedSums(NormalizedInGroups(scores, k, group), weights)
                                   : out.rewards;
  if (options.normalize_each) {
    // A score alone in its group has no normalized value; TRL counts it as 0 in the sum.
    for (size_t i = 0; i < n; ++i) {
      if (std::isnan(values[i]) && !std::isnan(out.rewards[i])) values[i] = 0;
    }
  }
  const Moments batch = MomentsOf(values.data(), n);
  double zero = 0;
  for (size_t first = 0; first < n; first += group) {
    const Moments raw = MomentsOf(&out.rewards[first], group);
    ++out.groups;
    if (raw.std <= kZero) ++out.zero_spread_groups;
    const bool batch_std = options.normalize_each || options.scale == Scale::kBatch;
    const double std = batch_std ? batch.std : raw.std;
    if (std <= kZero) zero += static_cast<double>(group);
    const std::span<double> values_of_group = std::span(values).subspan(first, group);
    if (options.normalize_each) {
      Normalize(batch.mean, std, values_of_group);
    } else {
      Normalize(raw.mean, options.scale == Scale::kNone ? 1 - kEpsilon : std, values_of_group);
    }
  }
  out.zero_std_share = n == 0 ? 0 : zero / static_cast<double>(n);
  for (double& v : values) {
    if (std::isnan(v)) v = 0;
  }
  out.advantages = std::move(values);
  return out;
}

}  // namespace finetuned::reward
