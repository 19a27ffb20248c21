#pragma once

#include <cstdint>
#include <string>

#include "engine/plan/memory_plan.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

// What a job may take of the device.
struct DeviceBudget {
  bool gpu = false;
  int64_t bytes = 0;        // 0: no limit (the CPU), or a GPU that neither driver nor worker has described yet
  int64_t total_bytes = 0;  // of the device; 0: not known
  int64_t free_bytes = 0;
  int64_t other_bytes = 0;  // held now by processes that are not ours
  int64_t host_bytes = 0;   // of this host's memory, for offloaded inputs
  std::string product;      // "NVIDIA GeForce RTX 3090"
  plan::DeviceConstants constants;  // measured ones, where there are any
};

// The least of the configuration's budget, the job's limit, and the device less what other processes hold by NVML
// and a reserve of kDeviceReserve. The worker's word stands in where NVML is silent.
inline constexpr double kDeviceReserve = 0.03;  // of the device, for what others may take later
DeviceBudget FindDeviceBudget(const jobs::Daemon& daemon, const v1::Job& job);

// For planning a model without a file: the job's limit alone decides, on a GPU wherever the daemon runs, in a host with
// this much free memory.
inline constexpr int64_t kImaginedHostBytes = 32'000'000'000;
DeviceBudget ImaginedBudget(const jobs::Daemon& daemon, const v1::Job& job);

}  // namespace finetuned::api
