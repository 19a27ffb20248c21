// What an allocator hands out, whichever device it is of.
#pragma once

#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>

namespace finetuned::bench {

// Counts every allocation of this thread while it lives.
class AllocationLog {
 public:
  AllocationLog() : counts_(std::make_shared<Counts>()), guard_(c10::DebugInfoKind::PROFILER_STATE, counts_) {}

  // The most bytes of one kind of device that were held at once, beyond what was there at the start.
  int64_t peak(c10::DeviceType device) const { return counts_->peak[device]; }
  // How often each size of at least 16 MiB was asked for.
  const std::map<int64_t, int64_t>& large() const { return counts_->large; }

 private:
  struct Counts : public c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
      int64_t& now = live[device.type()];
      now += size;
      peak[device.type()] = std::max(peak[device.type()], now);
      if (size >= (16 << 20)) ++large[size];
    }
    bool memoryProfilingEnabled() const override { return true; }

    std::map<c10::DeviceType, int64_t> live, peak;
    std::map<int64_t, int64_t> large;
  };

  std::shared_ptr<Counts> counts_;
  c10::DebugInfoGuard guard_;
};

}  // namespace finetuned::bench
