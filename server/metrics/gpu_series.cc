#include "server/metrics/gpu_series.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetuned::metrics {
namespace {

constexpr absl::Duration kStale = absl::Seconds(30);
constexpr double kShortestPowerWindow = 0.1;  // seconds; NVML's energy counter moves in steps of 20 to 100 ms

}  // namespace

void GpuSeries::Set(Families::Gauges family, const prometheus::Labels& labels,
                    std::optional<double> value) {
  const Key key = {&family, labels};
  const auto found = gauges_.find(key);
  if (value) {
    Gauge gauge = found != gauges_.end() ? found->second : Gauge{&family, &family.Add(labels)};
    gauge.series->Set(*value);
    gauges_.insert({key, gauge});
  } else if (found != gauges_.end()) {
    family.Remove(found->second.series);
    gauges_.erase(found);
  }
}

void GpuSeries::Follow(Families::Counters family, const prometheus::Labels& labels,
                       std::optional<double> total) {
  const Key key = {&family, labels};
  const auto found = counters_.find(key);
  if (total) {
    Counter& counter = found != counters_.end()
                           ? found->second
                           : counters_.insert({key, {&family, &family.Add(labels)}}).first->second;
    counter.series->Increment(*total >= counter.total ? *total - counter.total : *total);
    counter.total = *total;
  } else if (found != counters_.end()) {
    family.Remove(found->second.series);
    counters_.erase(found);
  }
}

void GpuSeries::Info(const std::string& gpu, const std::string& uuid, const std::string& product,
                     const std::string& driver) {
  prometheus::Labels labels = {{"gpu", gpu}, {"product", product}, {"driver", driver}};
  if (!uuid.empty()) labels["uuid"] = uuid;
  prometheus::Gauge* info = &f_.gpu_info.Add(labels);
  info->Set(1);
  prometheus::Gauge*& shown = info_[gpu];
  if (shown != nullptr && shown != info) f_.gpu_info.Remove(shown);
  shown = info;
}

void GpuSeries::Worker(const internal::v1::WorkerHello& hello, int64_t budget_bytes) {
  worker_has_gpu_ = absl::StartsWith(hello.device(), "cuda");
  const prometheus::Labels gpu = {{"gpu", "0"}};
  if (!worker_has_gpu_) {
    Set(f_.gpu_budget, gpu, std::nullopt);
    if (read_at_ == absl::InfinitePast()) RemoveReadings();
    return;
  }
  const auto total = static_cast<double>(hello.device_total_bytes());
  Set(f_.gpu_budget, gpu, budget_bytes > 0 ? static_cast<double>(budget_bytes) : total);
  if (read_at_ != absl::InfinitePast()) return;
  // "cuda:0 NVIDIA GeForce RTX 3090"
  const size_t space = hello.device().find(' ');
  Info("0", "", space == std::string::npos ? "" : hello.device().substr(space + 1),
       hello.driver_version());
  Set(f_.gpu_total, gpu, total);
  Set(f_.gpu_used, gpu, total - static_cast<double>(hello.device_free_bytes()));
}

void GpuSeries::Heartbeat(const internal::v1::WorkerHeartbeat& beat) {
  if (!worker_has_gpu_) return;
  if (beat.device_used_bytes() > 0 && read_at_ == absl::InfinitePast()) {
    Set(f_.gpu_used, {{"gpu", "0"}}, static_cast<double>(beat.device_used_bytes()));
  }
  Set(f_.gpu_allocator, {{"gpu", "0"}, {"kind", "allocated"}},
      static_cast<double>(beat.allocated_bytes()));
  Set(f_.gpu_allocator, {{"gpu", "0"}, {"kind", "reserved"}},
      static_cast<double>(beat.reserved_bytes()));
}

void GpuSeries::Remember(const std::vector<GpuReading>& readings, absl::Time now) {
  const std::vector<GpuReading> before = std::exchange(latest_, readings);
  const double seconds = absl::ToDoubleSeconds(now - read_at_);
  for (GpuReading& reading : latest_) {
    for (const GpuReading& old : before) {
      if (old.uuid != reading.uuid || old.index != reading.index) continue;
      if (!old.energy_joules || !reading.energy_joules || seconds < kShortestPowerWindow) continue;
      reading.power_watts = std::max(0.0, *reading.energy_joules - *old.energy_joules) / seconds;
    }
  }
}

std::vector<GpuReading> GpuSeries::Latest(absl::Time now) const {
  if (read_at_ == absl::InfinitePast() || now - read_at_ >= kStale) return {};
  return latest_;
}

void GpuSeries::Read(const std::vector<GpuReading>& readings, absl::Time now) {
  Remember(readings, now);
  read_at_ = now;
  for (const GpuReading& reading : readings) {
    const std::string gpu = absl::StrCat(reading.index);
    const prometheus::Labels labels = {{"gpu", gpu}};
    Info(gpu, reading.uuid, reading.product, reading.driver);
    Set(f_.gpu_total, labels, reading.memory_total_bytes);
    Set(f_.gpu_used, labels, reading.memory_used_bytes);
    Set(f_.gpu_utilization, labels, reading.utilization_ratio);
    Set(f_.gpu_power_limit, labels, reading.power_limit_watts);
    Set(f_.gpu_temperature, {{"gpu", gpu}, {"sensor", "core"}}, reading.temperature_celsius);
    Set(f_.gpu_sm_clock, labels, reading.sm_clock_hertz);
    Follow(f_.gpu_energy, labels, reading.energy_joules);
    for (const auto& [reason, seconds] : reading.throttle_seconds) {
      Follow(f_.gpu_throttle, {{"gpu", gpu}, {"reason", reason}}, seconds);
    }
    for (const auto& [xid, count] : reading.xid_errors) {
      Follow(f_.gpu_xid, {{"gpu", gpu}, {"xid", absl::StrCat(xid)}}, static_cast<double>(count));
    }
  }
}

void GpuSeries::RemoveReadings() {
  for (const auto& [gpu, info] : info_) f_.gpu_info.Remove(info);
  info_.clear();
  for (auto it = gauges_.begin(); it != gauges_.end();) {
    // Budget and allocator are not the driver's words.
    const bool ours = it->second.family == &f_.gpu_budget || it->second.family == &f_.gpu_allocator;
    if (ours && worker_has_gpu_) {
      ++it;
      continue;
    }
    it->second.family->Remove(it->second.series);
    it = gauges_.erase(it);
  }
  for (const auto& [key, counter] : counters_) counter.family->Remove(counter.series);
  counters_.clear();
}

void GpuSeries::DropStale(absl::Time now) {
  if (read_at_ == absl::InfinitePast() || now - read_at_ < kStale) return;
  RemoveReadings();
  read_at_ = absl::InfinitePast();
}

}  // namespace finetuned::metrics
