#include "server/api/metric_series.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace finetuned::api {
namespace {

struct Range {
  int begin, end;
};

// Points 1..n-2 are cut into max_points - 2 buckets of nearly equal size.
Range Bucket(int index, int points, int buckets) {
  const int64_t inner = points - 2;
  return {static_cast<int>(1 + inner * index / buckets), static_cast<int>(1 + inner * (index + 1) / buckets)};
}

// The point of `bucket` that spans the largest triangle with the point chosen before and the mean of
// the bucket after.
int Choose(const v1::MetricSeries& s, Range bucket, Range next, int previous) {
  double mean_step = 0, mean_value = 0;
  for (int i = next.begin; i < next.end; ++i) {
    mean_step += static_cast<double>(s.steps(i)) / (next.end - next.begin);
    mean_value += s.values(i) / (next.end - next.begin);
  }
  int best = bucket.begin;
  double best_area = -1;
  for (int i = bucket.begin; i < bucket.end; ++i) {
    if (!std::isfinite(s.values(i))) return i;
    const double area =
        std::abs((static_cast<double>(s.steps(previous)) - mean_step) * (s.values(i) - s.values(previous)) -
                 static_cast<double>(s.steps(previous) - s.steps(i)) * (mean_value - s.values(previous)));
    if (area > best_area) {
      best_area = area;
      best = i;
    }
  }
  return best;
}

v1::MetricSeries Thin(const v1::MetricSeries& all, int max_points) {
  v1::MetricSeries out;
  out.set_key(all.key());
  const auto add = [&](int i) {
    out.add_steps(all.steps(i));
    out.add_values(all.values(i));
    out.add_wall_time_seconds(all.wall_time_seconds(i));
  };
  const int points = all.steps_size();
  const int buckets = max_points - 2;
  int previous = 0;
  add(0);
  for (int b = 0; b < buckets; ++b) {
    const Range next = b + 1 < buckets ? Bucket(b + 1, points, buckets) : Range{points - 1, points};
    previous = Choose(all, Bucket(b, points, buckets), next, previous);
    add(previous);
  }
  add(points - 1);
  return out;
}

}  // namespace

std::vector<v1::MetricSeries> BuildSeries(const std::vector<store::MetricSample>& samples,
                                          const std::vector<std::string>& keys, int max_points) {
  const std::set<std::string> wanted(keys.begin(), keys.end());
  std::map<std::string, v1::MetricSeries> series;
  for (const store::MetricSample& sample : samples) {
    const double time = absl::ToDoubleSeconds(sample.time - absl::UnixEpoch());
    for (const auto& [key, value] : sample.values) {
      if (!wanted.empty() && !wanted.contains(key)) continue;
      v1::MetricSeries& one = series[key];
      one.add_steps(sample.step);
      one.add_values(value);
      one.add_wall_time_seconds(time);
    }
  }
  std::vector<v1::MetricSeries> out;
  for (auto& [key, one] : series) {
    one.set_key(key);
    out.push_back(one.steps_size() > max_points ? Thin(one, std::max(max_points, 3)) : std::move(one));
  }
  return out;
}

}  // namespace finetuned::api
