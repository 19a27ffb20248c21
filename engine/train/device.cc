#include "engine/train/device.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#ifdef FINETUNED_HAVE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#endif

namespace finetuned::train {
namespace {

bool HaveGpu() {
#ifdef FINETUNED_HAVE_CUDA
  return c10::cuda::device_count() > 0;
#else
  return false;
#endif
}

double ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  double total = 0, resident = 0;
  in >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace

absl::StatusOr<ComputeTarget> ChooseTarget(const job::TrainSpec& spec) {
  if (spec.device == "cuda" && !HaveGpu()) {
    return absl::UnavailableError(
        "compute.device: is \"cuda\", but this process sees no GPU; check nvidia-smi, or use \"auto\"");
  }
  ComputeTarget target;
  if (spec.device != "cpu" && HaveGpu()) target.device = at::Device(at::kCUDA, 0);
  const bool gpu = target.device.is_cuda();
  if (spec.compute_dtype == "bf16" && !gpu) {
    return absl::InvalidArgumentError(
        "compute.dtype: \"bf16\" needs a GPU; the CPU computes in \"f32\"");
  }
  if (gpu && spec.compute_dtype != "f32") target.dtype = at::kBFloat16;
  return target;
}

absl::Status CheckPrecision(const job::TrainSpec& spec, const ComputeTarget& target) {
  if (spec.matmul_precision == "bf16") return absl::OkStatus();
  if (!target.device.is_cuda() || target.dtype != at::kBFloat16) {
    return absl::InvalidArgumentError(absl::StrCat("compute.matmul_precision: \"", spec.matmul_precision,
                                                   "\" needs a GPU and compute.dtype bf16; use \"bf16\""));
  }
#ifdef FINETUNED_HAVE_CUDA
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, target.device.index());
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, target.device.index());
  const int have = 10 * major + minor, need = spec.matmul_precision == "fp8" ? 89 : 80;
  if (have < need) {
    return absl::InvalidArgumentError(absl::StrCat(
        "compute.matmul_precision: \"", spec.matmul_precision, "\" needs compute capability ", need / 10, ".",
        need % 10, ", this GPU has ", major, ".", minor, "; use \"", have >= 80 ? "int8" : "bf16", "\""));
  }
#endif
  return absl::OkStatus();
}

void ConfigureLibrary(const job::TrainSpec& spec) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(spec.cpu_threads > 0 ? spec.cpu_threads : std::max(1, cores));
  // cuBLAS repeats its results only with a fixed workspace, and reads its size from here alone.
  if (spec.deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(spec.deterministic, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

void AddMemory(const at::Device& device, std::map<std::string, double>* values) {
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) {
    namespace allocator = c10::cuda::CUDACachingAllocator;
    const auto stats = allocator::getDeviceStats(device.index());
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    (*values)["memory_allocated_bytes"] = static_cast<double>(stats.allocated_bytes[0].current);
    (*values)["memory_peak_bytes"] = static_cast<double>(stats.allocated_bytes[0].peak);
    const int64_t given_back = stats.reserved_bytes[0].peak - stats.reserved_bytes[0].current;
    (*values)["memory_reserved_bytes"] = static_cast<double>(stats.reserved_bytes[0].peak);
    (*values)["memory_device_used_bytes"] = static_cast<double>(static_cast<int64_t>(total - free) + given_back);
    return;
  }
#endif
  (*values)["memory_allocated_bytes"] = ResidentBytes();
  (*values)["memory_peak_bytes"] = PeakResidentBytes();
  (*values)["memory_device_used_bytes"] = ResidentBytes();
}

void ResetPeak(const at::Device& device) {
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
#endif
}

void CapMemory(const at::Device& device, int64_t bytes) {
#ifdef FINETUNED_HAVE_CUDA
  if (!device.is_cuda()) return;
  at::empty({1}, at::TensorOptions().device(device));  // the first allocation makes the allocator
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  const double fraction = bytes > 0 ? static_cast<double>(bytes) / static_cast<double>(total) : 1.0;
  c10::cuda::CUDACachingAllocator::setMemoryFraction(std::min(1.0, fraction), device.index());
#endif
}

void ReleaseCachedMemory(const at::Device& device) {
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) c10::cuda::CUDACachingAllocator::emptyCache();
#endif
}

bool HasCudnnAttention(const at::Device& device) {
  int major = 0;
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index());
#else
  (void)device;
#endif
  return major >= 9;
}

int64_t TotalMemory(const at::Device& device) {
  size_t free = 0, total = 0;
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) cudaMemGetInfo(&free, &total);
#else
  (void)device;
#endif
  return static_cast<int64_t>(total);
}

int64_t DeviceMemory::Available(const at::Device& device) const {
#ifdef FINETUNED_HAVE_CUDA
  if (device.is_cuda()) {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
    return static_cast<int64_t>(free) + stats.reserved_bytes[0].current;
  }
#else
  (void)device;
#endif
  return 0;
}

void DeviceMemory::BeforePass() {}

bool IsOutOfMemory(const c10::Error& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  const std::string& text = error.msg();
  return absl::StrContains(text, "out of memory") || absl::StrContains(text, "ALLOC_FAILED");
}

}  // namespace finetuned::train
