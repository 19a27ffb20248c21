#pragma once

#include <string>
#include <vector>

#include "finetuned/v1/jobs.pb.h"
#include "server/store/store.h"

namespace finetuned::api {

// Turns samples, in order of their steps, into one series per key, sorted by key. `keys` empty: all.
// A series of more than `max_points` is thinned to that many with its shape kept
// (largest-triangle-three-buckets, Steinarsson 2013); the first and the last point and values that are
// not finite always stay visible.
std::vector<v1::MetricSeries> BuildSeries(const std::vector<store::MetricSample>& samples,
                                          const std::vector<std::string>& keys, int max_points);

}  // namespace finetuned::api
