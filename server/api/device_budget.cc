#include "server/api/device_budget.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "engine/plan/cost.h"
#include "engine/plan/host_memory.h"

namespace finetuned::api {
namespace {

using metrics::GpuReading;

// "cuda:0 NVIDIA GeForce RTX 3090" -> "NVIDIA GeForce RTX 3090".
std::string ProductOf(const std::string& device) {
  const size_t space = device.find(' ');
  return space == std::string::npos ? "" : device.substr(space + 1);
}

// The reading of the worker's GPU, else of the first.
const GpuReading* Select(const std::vector<GpuReading>& readings, const std::string& product) {
  for (const GpuReading& reading : readings) {
    if (reading.product == product) return &reading;
  }
  return readings.empty() ? nullptr : &readings.front();
}

void UseReading(const GpuReading& reading, const jobs::WorkerStatus& worker, DeviceBudget* device) {
  if (!reading.product.empty()) device->product = reading.product;
  if (!reading.memory_total_bytes || !reading.memory_used_bytes) return;
  device->total_bytes = static_cast<int64_t>(*reading.memory_total_bytes);
  const auto used = static_cast<int64_t>(*reading.memory_used_bytes);
  device->free_bytes = device->total_bytes - used;
  int64_t own = 0;
  const bool running = worker.state != queue::WorkerState::kStopped && worker.hello.has_value();
  if (running) {
    const auto found = reading.process_bytes.find(worker.hello->pid());
    // A driver that names no processes (containers): what is held is taken for ours.
    own = found != reading.process_bytes.end() ? static_cast<int64_t>(found->second) : used;
  }
  device->other_bytes = std::max<int64_t>(0, used - own);
}

int64_t Least(int64_t a, int64_t b) {
  if (a <= 0 || b <= 0) return std::max<int64_t>({a, b, 0});
  return std::min(a, b);
}

}  // namespace

DeviceBudget FindDeviceBudget(const jobs::Daemon& daemon, const v1::Job& job) {
  DeviceBudget device;
  const std::string& wish = daemon.config->worker.device;
  if (wish == "cpu" || job.spec().compute().device() == "cpu") return device;
  const jobs::WorkerStatus worker = daemon.jobs->Worker();
  const std::vector<GpuReading> readings = daemon.metrics->LatestGpus(absl::Now());
  if (worker.hello.has_value()) {
    device.gpu = absl::StartsWith(worker.hello->device(), "cuda");
    device.product = ProductOf(worker.hello->device());
    device.total_bytes = worker.hello->device_total_bytes();
    device.free_bytes = worker.hello->device_free_bytes();
  } else {
    // No worker has said anything yet: the driver, or its control node, tells whether there is a GPU.
    device.gpu = wish == "cuda" || !readings.empty() || access("/dev/nvidiactl", F_OK) == 0;
  }
  if (!device.gpu) return DeviceBudget{};
  if (const GpuReading* reading = Select(readings, device.product)) UseReading(*reading, worker, &device);
  if (worker.context_bytes > 0) device.constants.context_bytes = worker.context_bytes;
  if (worker.hello.has_value() && worker.hello->context_bytes() > 0) {
    device.constants.workspace_bytes = worker.hello->workspace_bytes();
  }
  device.host_bytes = plan::OffloadBudget(plan::AvailableHostMemory());
  const plan::DeviceSpeed* speed = plan::FindDeviceSpeed(device.product);
  device.constants.cudnn_attention = speed != nullptr && speed->cudnn_attention;
  if (device.total_bytes > 0) {
    const auto reserve = static_cast<int64_t>(kDeviceReserve * static_cast<double>(device.total_bytes));
    device.bytes = std::max<int64_t>(1, device.total_bytes - device.other_bytes - reserve);
  }
  device.bytes = Least(device.bytes, daemon.config->worker.vram_budget_bytes);
  device.bytes = Least(device.bytes, job.scheduling().vram_limit_bytes());
  return device;
}

DeviceBudget ImaginedBudget(const jobs::Daemon& daemon, const v1::Job& job) {
  DeviceBudget device = FindDeviceBudget(daemon, job);
  if (job.scheduling().vram_limit_bytes() > 0) {
    device.gpu = true;
    device.bytes = job.scheduling().vram_limit_bytes();
    device.other_bytes = 0;
    device.constants = {};
    device.host_bytes = plan::OffloadBudget(kImaginedHostBytes);
  }
  return device;
}

}  // namespace finetuned::api
