#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace finetuned::metrics {

// One GPU at one moment. What the driver or the model does not tell is empty.
struct GpuReading {
  int index = 0;  // NVML's: the order of nvidia-smi
  std::string uuid, product, driver;
  std::optional<double> memory_total_bytes, memory_used_bytes;
  std::map<int64_t, double> process_bytes;  // of those that compute, by process number as the driver sees it
  std::optional<double> utilization_ratio;  // 0..1
  std::optional<double> energy_joules;      // since the driver was loaded
  std::optional<double> power_watts;        // of the energy between two readings; Nvml leaves it empty
  std::optional<double> power_limit_watts;
  std::optional<double> temperature_celsius;  // of the core
  std::optional<double> sm_clock_hertz;
  std::map<std::string, double> throttle_seconds;  // by reason, since the driver was loaded
  std::map<uint64_t, int64_t> xid_errors;          // by XID, since Open
};

// NVIDIA's management library, loaded at run time: no CUDA context, nothing linked. One thread at a
// time.
class Nvml {
 public:
  // NOT_FOUND: no library, no driver or no GPU. UNAVAILABLE: the library does not answer.
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(
      const std::string& library = "libnvidia-ml.so.1");
  ~Nvml();
  // Every GPU. May block for as long as the driver does.
  std::vector<GpuReading> Read();

 private:
  struct Library;
  Nvml();
  void DrainEvents();

  std::unique_ptr<Library> library_;
  std::vector<void*> devices_;
  void* events_ = nullptr;  // XIDs; null when the driver has no events
  std::map<void*, std::map<uint64_t, int64_t>> xids_;
};

}  // namespace finetuned::metrics
