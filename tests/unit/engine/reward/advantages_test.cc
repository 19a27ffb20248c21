#include "engine/reward/advantages.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace finetuned::reward {
namespace {

using nlohmann::json;
using Scale = AdvantageOptions::Scale;

double Number(const json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

std::vector<double> Numbers(const json& list) {
  std::vector<double> out;
  for (const json& value : list) out.push_back(Number(value));
  return out;
}

void ExpectNear(const std::vector<double>& got, const json& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = Number(wanted[i]);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got[i])) << i;
    } else {
      EXPECT_NEAR(got[i], want, 1e-4 * std::max(1.0, std::abs(want))) << i;
    }
  }
}

// tests/golden/grpo/make_goldens.py runs TRL's own lines.
TEST(Advantages, EqualTrl) {
  std::ifstream in(FINETUNED_SOURCE_DIR "/tests/golden/grpo/grpo.json");
  const json cases = json::parse(in).at("advantages");
  ASSERT_GE(cases.size(), 12);
  for (const json& c : cases) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    AdvantageOptions options;
    options.group_size = c.at("group_size");
    const std::string scale = c.at("scale");
    options.scale = scale == "group"   ? Scale::kGroup
                    : scale == "batch" ? Scale::kBatch
                                       : Scale::kNone;
    options.normalize_each = c.at("aggregation") == "normalize_then_sum";
    const Advantages got =
        ComputeAdvantages(Numbers(c.at("scores")), Numbers(c.at("weights")), options);
    ExpectNear(got.advantages, c.at("advantages"));
    ExpectNear(got.rewards, c.at("rewards"));
    ExpectNear({got.reward_mean, got.reward_std, got.zero_std_share}, c.at("summary"));
    ExpectNear(got.means, c.at("means"));
    ExpectNear(got.stds, c.at("stds"));
  }
}

TEST(Advantages, CountsGroupsWithoutSpread) {
  const std::vector<double> scores = {1, 1, 0, 1, std::nan(""), std::nan("")};
  const std::vector<double> weights = {1};
  const Advantages got = ComputeAdvantages(scores, weights, {2});
  EXPECT_EQ(got.groups, 3);
  EXPECT_EQ(got.zero_spread_groups, 1) << "the group without scores has no spread to speak of";
  EXPECT_EQ(got.advantages[0], 0);
  EXPECT_LT(got.advantages[2], 0);
  EXPECT_EQ(got.advantages[4], 0);
}

}  // namespace
}  // namespace finetuned::reward
