#include "server/api/metric_series.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace finetuned::api {
namespace {

std::vector<store::MetricSample> Samples(int n, const std::function<double(int)>& loss) {
  std::vector<store::MetricSample> out;
  for (int i = 1; i <= n; ++i) {
    store::MetricSample sample;
    sample.step = i;
    sample.time = absl::FromUnixSeconds(1000 + i);
    sample.values["loss"] = loss(i);
    if (i % 10 == 0) sample.values["eval_loss"] = 2.0;
    out.push_back(sample);
  }
  return out;
}

TEST(MetricSeries, OneSeriesPerKeyInOrder) {
  const auto series = BuildSeries(Samples(20, [](int i) { return i * 0.5; }), {}, 1000);
  ASSERT_EQ(series.size(), 2u);
  EXPECT_EQ(series[0].key(), "eval_loss");
  EXPECT_EQ(series[0].steps_size(), 2);
  EXPECT_EQ(series[1].key(), "loss");
  EXPECT_EQ(series[1].steps(4), 5);
  EXPECT_EQ(series[1].values(4), 2.5);
  EXPECT_EQ(series[1].wall_time_seconds(4), 1005);
}

TEST(MetricSeries, OnlyTheKeysAskedFor) {
  const auto series = BuildSeries(Samples(20, [](int i) { return i; }), {"loss", "nothing"}, 1000);
  ASSERT_EQ(series.size(), 1u);
  EXPECT_EQ(series[0].key(), "loss");
}

TEST(MetricSeries, ThinningKeepsEndsSpikesAndOrder) {
  const auto series = BuildSeries(Samples(10'000, [](int i) { return i == 7'777 ? 100.0 : 1.0; }), {"loss"}, 50);
  ASSERT_EQ(series[0].steps_size(), 50);
  EXPECT_EQ(series[0].steps(0), 1);
  EXPECT_EQ(series[0].steps(49), 10'000);
  bool spike = false;
  for (int i = 0; i < 50; ++i) {
    spike |= series[0].values(i) == 100.0;
    if (i > 0) {
      EXPECT_LT(series[0].steps(i - 1), series[0].steps(i));
    }
  }
  EXPECT_TRUE(spike);
}

TEST(MetricSeries, ValuesThatAreNotFiniteStayVisible) {
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  const auto series = BuildSeries(Samples(1'000, [=](int i) { return i == 500 ? nan : 1.0; }), {"loss"}, 10);
  bool found = false;
  for (const double value : series[0].values()) found |= std::isnan(value);
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace finetuned::api
