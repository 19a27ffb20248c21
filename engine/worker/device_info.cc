#include "engine/worker/device_info.h"

#include <ATen/Context.h>
#include <torch/version.h>

#include "engine/train/driver_memory.h"

#ifdef FINETUNED_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace finetuned::worker {

DeviceInfo DescribeDevice(const std::string& wanted) {
  DeviceInfo info;
  info.libtorch_version = TORCH_VERSION;
#ifdef FINETUNED_HAVE_CUDA
  cudaDeviceProp properties{};
  if (wanted != "cpu" && at::hasCUDA() && cudaGetDeviceProperties(&properties, 0) == cudaSuccess) {
    info.name = std::string("cuda:0 ") + properties.name;
    int version = 0;
    cudaDriverGetVersion(&version);
    info.cuda_version = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    info.driver_version = train::DriverVersion();
  }
#endif
  return info;
}

DeviceInfo QueryDevice(const std::string& wanted) {
  DeviceInfo info = DescribeDevice(wanted);
#ifdef FINETUNED_HAVE_CUDA
  size_t free_bytes = 0, total_bytes = 0;
  if (info.name == "cpu") return info;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) return DescribeDevice("cpu");
  info.total_bytes = static_cast<int64_t>(total_bytes);
  info.free_bytes = static_cast<int64_t>(free_bytes);
#endif
  return info;
}

}  // namespace finetuned::worker
