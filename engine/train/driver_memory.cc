#include "engine/train/driver_memory.h"

#include <dlfcn.h>

#ifdef FINETUNED_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace finetuned::train {
namespace {

// The part of nvml.h used here (NVML API reference); layouts and numbers are frozen by NVIDIA.
struct Memory {
  unsigned long long total, free, used;  // bytes
};

class Library {
 public:
  static const Library& Get() {
    static const auto* const library = new Library();
    return *library;
  }

  bool ok() const { return ok_; }
  int (*by_bus_id)(const char*, void**) = nullptr;
  int (*memory)(void*, Memory*) = nullptr;
  int (*driver)(char*, unsigned) = nullptr;

 private:
  Library() {
    void* handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return;
    const auto load = [handle]<typename Function>(const char* symbol, Function* function) {
      *function = reinterpret_cast<Function>(dlsym(handle, symbol));
      return *function != nullptr;
    };
    int (*init)() = nullptr;
    ok_ = load("nvmlInit_v2", &init) && load("nvmlDeviceGetHandleByPciBusId_v2", &by_bus_id) &&
          load("nvmlDeviceGetMemoryInfo", &memory) && load("nvmlSystemGetDriverVersion", &driver) && init() == 0;
  }

  bool ok_ = false;
};

}  // namespace

std::optional<int64_t> DriverUsedBytes(int device_index) {
#ifdef FINETUNED_HAVE_CUDA
  char bus_id[32] = {};
  void* device = nullptr;
  Memory memory = {};
  const Library& nvml = Library::Get();
  if (nvml.ok() && cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device_index) == cudaSuccess &&
      nvml.by_bus_id(bus_id, &device) == 0 && nvml.memory(device, &memory) == 0) {
    return static_cast<int64_t>(memory.used);
  }
#else
  (void)device_index;
#endif
  return std::nullopt;
}

std::string DriverVersion() {
  char version[96] = {};
  const Library& nvml = Library::Get();
  return nvml.ok() && nvml.driver(version, sizeof version) == 0 ? version : "";
}

}  // namespace finetuned::train
