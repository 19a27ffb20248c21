#pragma once

#include <cstdint>
#include <string>

namespace finetuned::worker {

// The device a run would use, without starting one.
struct DeviceInfo {
  std::string name = "cpu";   // "cuda:0 NVIDIA GeForce RTX 3090"
  int64_t total_bytes = 0;    // 0 on the CPU
  int64_t free_bytes = 0;
  std::string cuda_version, driver_version;
  std::string libtorch_version;
};

// `wanted`: auto, cpu or cuda. Never throws; without a usable GPU the answer is the CPU. Makes no context: the bytes
// stay 0.
DeviceInfo DescribeDevice(const std::string& wanted);
// The same with its bytes, which takes a context.
DeviceInfo QueryDevice(const std::string& wanted);

}  // namespace finetuned::worker
