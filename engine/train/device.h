#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "engine/job/train_spec.h"

namespace finetuned::train {

// Where and in which type a run computes.
struct ComputeTarget {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
};

// From spec.device and spec.compute_dtype: "auto" is the GPU when there is one, and bf16 on it.
// UNAVAILABLE when CUDA is asked for and absent; INVALID_ARGUMENT naming the field for bf16 on the CPU.
absl::StatusOr<ComputeTarget> ChooseTarget(const job::TrainSpec& spec);

// Whether the device multiplies in spec.matmul_precision. INVALID_ARGUMENT with what it can do instead.
absl::Status CheckPrecision(const job::TrainSpec& spec, const ComputeTarget& target);

// Sets the thread count and, on request, LibTorch's deterministic algorithms, for the process.
// Deterministic CUDA needs a call before the process first uses cuBLAS.
void ConfigureLibrary(const job::TrainSpec& spec);

// memory_allocated_bytes, memory_peak_bytes (since ResetPeak), and on a GPU memory_reserved_bytes (the most that the
// allocator held since then) and memory_device_used_bytes (by all processes, with what was given back meanwhile). On
// the CPU the resident set of the process takes the place of the others.
void AddMemory(const at::Device& device, std::map<std::string, double>* values);
void ResetPeak(const at::Device& device);

// Tensors on the GPU may take this much and no more; 0: all. On the CPU nothing happens.
void CapMemory(const at::Device& device, int64_t bytes);

// Compute capability 9.0 and newer: what plan::DeviceConstants::cudnn_attention means.
bool HasCudnnAttention(const at::Device& device);

// Bytes of the whole device, whoever holds them; 0 for the CPU.
int64_t TotalMemory(const at::Device& device);

// Gives memory that no tensor uses back to the device.
void ReleaseCachedMemory(const at::Device& device);

// What a run may still take of its device. Tests put their own in its place to take memory away.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  // Bytes that tensors of this process hold or could get now; 0: not known (the CPU).
  virtual int64_t Available(const at::Device& device) const;
  // Told before each pass over a micro-batch.
  virtual void BeforePass();
};

// An error that means "not enough device memory", also from the libraries.
bool IsOutOfMemory(const c10::Error& error);

}  // namespace finetuned::train
