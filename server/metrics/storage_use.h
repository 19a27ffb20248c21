#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace finetuned::metrics {

// finetuned_storage_used_bytes: what the daemon keeps in its state directory, by kind. Measured
// when scraped, at most once a minute, so that nothing else waits for the walk. Thread-safe.
class StorageUse : public prometheus::Collectable {
 public:
  explicit StorageUse(std::string state_dir) : state_dir_(std::move(state_dir)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string state_dir_;
  mutable std::mutex mutex_;
  mutable absl::Time measured_at_ = absl::InfinitePast();
  mutable prometheus::MetricFamily family_;
};

}  // namespace finetuned::metrics
