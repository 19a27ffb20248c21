#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "server/metrics/families.h"
#include "server/metrics/nvml.h"

namespace finetuned::metrics {

// The series of the GPUs. NVML is their source; what the worker said stands in while there is no
// NVML. A field nobody knows has no series. Not thread-safe.
class GpuSeries {
 public:
  explicit GpuSeries(Families* families) : f_(*families) {}

  // budget_bytes 0: all of the device's memory.
  void Worker(const internal::v1::WorkerHello& hello, int64_t budget_bytes);
  void Heartbeat(const internal::v1::WorkerHeartbeat& beat);
  void Read(const std::vector<GpuReading>& readings, absl::Time now);
  // The readings last given to Read, with power_watts where two of them tell it; none once stale.
  std::vector<GpuReading> Latest(absl::Time now) const;
  // A driver that stopped answering: old values are not shown as if they were true now.
  void DropStale(absl::Time now);

 private:
  void Set(Families::Gauges family, const prometheus::Labels& labels, std::optional<double> value);
  // The counter follows a running total that may start anew.
  void Follow(Families::Counters family, const prometheus::Labels& labels,
              std::optional<double> total);
  void Info(const std::string& gpu, const std::string& uuid, const std::string& product,
            const std::string& driver);
  void RemoveReadings();
  void Remember(const std::vector<GpuReading>& readings, absl::Time now);

  struct Gauge {
    prometheus::Family<prometheus::Gauge>* family;
    prometheus::Gauge* series;
  };
  struct Counter {
    prometheus::Family<prometheus::Counter>* family;
    prometheus::Counter* series;
    double total = 0;
  };
  using Key = std::pair<const void*, prometheus::Labels>;  // family, labels

  Families& f_;
  bool worker_has_gpu_ = false;
  absl::Time read_at_ = absl::InfinitePast();  // InfinitePast: no NVML now
  std::vector<GpuReading> latest_;
  std::map<Key, Gauge> gauges_;
  std::map<Key, Counter> counters_;
  std::map<std::string, prometheus::Gauge*> info_;  // by gpu
};

}  // namespace finetuned::metrics
