#include "server/metrics/gpu_monitor.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/config/log.h"

namespace finetuned::metrics {

struct GpuMonitor::Shared {
  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  Publish publish;  // called with mutex held: never after the destructor
};

GpuMonitor::GpuMonitor(absl::Duration interval, Publish publish)
    : shared_(std::make_shared<Shared>()) {
  shared_->publish = std::move(publish);
  std::thread([shared = shared_, interval] {
    auto nvml = Nvml::Open();
    if (!nvml.ok()) {
      LogInfo(absl::StrCat("no GPU metrics: ", nvml.status().message()));
      return;
    }
    for (;;) {
      const std::vector<GpuReading> readings = (*nvml)->Read();
      std::unique_lock lock(shared->mutex);
      if (shared->stopping) return;
      shared->publish(readings);
      shared->wake.wait_for(lock, absl::ToChronoNanoseconds(interval),
                            [&] { return shared->stopping; });
      if (shared->stopping) return;
    }
  }).detach();
}

GpuMonitor::~GpuMonitor() {
  std::lock_guard lock(shared_->mutex);
  shared_->stopping = true;
  shared_->wake.notify_all();
}

}  // namespace finetuned::metrics
