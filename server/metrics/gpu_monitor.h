#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "server/metrics/nvml.h"

namespace finetuned::metrics {

// Reads NVML on a thread of its own, since a broken GPU can block the driver's calls for minutes.
// Without a driver it does nothing.
class GpuMonitor {
 public:
  using Publish = std::function<void(const std::vector<GpuReading>&)>;
  // `publish` is called on the monitor's thread, every `interval`, until the destructor.
  GpuMonitor(absl::Duration interval, Publish publish);
  // Does not wait for a driver that hangs: its thread is left behind and publishes no more.
  ~GpuMonitor();

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace finetuned::metrics
