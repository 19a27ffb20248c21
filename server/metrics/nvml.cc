#include "server/metrics/nvml.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace finetuned::metrics {
namespace {

// The part of nvml.h used here (NVML API reference); layouts and numbers are frozen by NVIDIA.
using Return = int;
constexpr Return kSuccess = 0;
constexpr int kSensorCore = 0, kClockSm = 1;
constexpr unsigned long long kXidEvent = 8;
// XIDs that mean a broken job or GPU (NVIDIA's XID catalogue). They start at 0: the first one is an
// increase.
constexpr uint64_t kKnownXids[] = {13, 31, 43, 45, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119};
constexpr unsigned kNameBytes = 96, kMostProcesses = 128;

struct Memory {
  unsigned long long total, free, used;  // bytes
};
struct Process {
  unsigned pid;
  unsigned long long bytes;  // all ones: not available
  unsigned gpu_instance, compute_instance;
};
struct Utilization {
  unsigned gpu, memory;  // percent
};
struct ViolationTime {
  unsigned long long reference_us, violation_ns;
};
struct EventData {
  void* device;
  unsigned long long type, data;
  unsigned gpu_instance, compute_instance;
};
struct Policy {
  int number;
  const char* reason;
};
constexpr Policy kPolicies[] = {
    {0, "power"}, {1, "thermal"}, {2, "sync_boost"}, {3, "board_limit"}, {5, "reliability"}};

}  // namespace

// Functions of the library; those that are not there stay null and their fields empty.
struct Nvml::Library {
  void* handle = nullptr;
  Return (*init)() = nullptr;
  Return (*shutdown)() = nullptr;
  Return (*count)(unsigned*) = nullptr;
  Return (*by_index)(unsigned, void**) = nullptr;
  Return (*driver)(char*, unsigned) = nullptr;
  Return (*name)(void*, char*, unsigned) = nullptr;
  Return (*uuid)(void*, char*, unsigned) = nullptr;
  Return (*memory)(void*, Memory*) = nullptr;
  Return (*processes)(void*, unsigned*, Process*) = nullptr;
  Return (*utilization)(void*, Utilization*) = nullptr;
  Return (*energy_mj)(void*, unsigned long long*) = nullptr;
  Return (*power_limit_mw)(void*, unsigned*) = nullptr;
  Return (*temperature)(void*, int, unsigned*) = nullptr;
  Return (*clock_mhz)(void*, int, unsigned*) = nullptr;
  Return (*violation)(void*, int, ViolationTime*) = nullptr;
  Return (*event_set)(void**) = nullptr;
  Return (*event_free)(void*) = nullptr;
  Return (*event_register)(void*, unsigned long long, void*) = nullptr;
  Return (*event_wait)(void*, EventData*, unsigned) = nullptr;
  bool initialized = false;

  template <typename Function>
  void Load(const char* symbol, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle, symbol));
  }
  void LoadAll() {
    Load("nvmlInit_v2", &init);
    Load("nvmlShutdown", &shutdown);
    Load("nvmlDeviceGetCount_v2", &count);
    Load("nvmlDeviceGetHandleByIndex_v2", &by_index);
    Load("nvmlSystemGetDriverVersion", &driver);
    Load("nvmlDeviceGetName", &name);
    Load("nvmlDeviceGetUUID", &uuid);
    Load("nvmlDeviceGetMemoryInfo", &memory);
    Load("nvmlDeviceGetComputeRunningProcesses_v3", &processes);
    Load("nvmlDeviceGetUtilizationRates", &utilization);
    Load("nvmlDeviceGetTotalEnergyConsumption", &energy_mj);
    Load("nvmlDeviceGetEnforcedPowerLimit", &power_limit_mw);
    Load("nvmlDeviceGetTemperature", &temperature);
    Load("nvmlDeviceGetClockInfo", &clock_mhz);
    Load("nvmlDeviceGetViolationStatus", &violation);
    Load("nvmlEventSetCreate", &event_set);
    Load("nvmlEventSetFree", &event_free);
    Load("nvmlDeviceRegisterEvents", &event_register);
    Load("nvmlEventSetWait_v2", &event_wait);
  }
  ~Library() {
    if (initialized && shutdown != nullptr) shutdown();
    if (handle != nullptr) dlclose(handle);
  }

  // Calls `function` for one number; empty when it is missing or fails.
  template <typename Value>
  static std::optional<double> Number(Return (*function)(void*, Value*), double unit,
                                      void* device) {
    Value value = {};
    if (function == nullptr || function(device, &value) != kSuccess) return std::nullopt;
    return static_cast<double>(value) * unit;
  }
  static std::optional<double> Number(Return (*function)(void*, int, unsigned*), double unit,
                                      void* device, int which) {
    unsigned value = 0;
    if (function == nullptr || function(device, which, &value) != kSuccess) return std::nullopt;
    return value * unit;
  }
  std::map<int64_t, double> ProcessBytes(void* device) const {
    Process list[kMostProcesses] = {};
    unsigned count = kMostProcesses;
    std::map<int64_t, double> bytes;
    if (processes == nullptr || processes(device, &count, list) != kSuccess) return bytes;
    for (unsigned i = 0; i < count && i < kMostProcesses; ++i) {
      if (list[i].bytes != ~0ull) bytes[list[i].pid] += static_cast<double>(list[i].bytes);
    }
    return bytes;
  }
  std::string Text(Return (*function)(void*, char*, unsigned), void* device) const {
    char text[kNameBytes] = {};
    return function != nullptr && function(device, text, kNameBytes) == kSuccess ? text : "";
  }
};

Nvml::Nvml() : library_(std::make_unique<Library>()) {}

Nvml::~Nvml() {
  if (events_ != nullptr && library_->event_free != nullptr) library_->event_free(events_);
}

absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Open(const std::string& library) {
  std::unique_ptr<Nvml> nvml(new Nvml);
  Library& lib = *nvml->library_;
  lib.handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (lib.handle == nullptr)
    return absl::NotFoundError(absl::StrCat("no NVIDIA driver library: ", dlerror()));
  lib.LoadAll();
  if (lib.init == nullptr || lib.count == nullptr || lib.by_index == nullptr) {
    return absl::UnavailableError(absl::StrCat(library, " lacks nvmlInit_v2 and its companions"));
  }
  if (const Return code = lib.init(); code != kSuccess) {
    return absl::NotFoundError(absl::StrCat("nvmlInit_v2 gave ", code,
                                            ": no driver is loaded, or it is another "
                                            "version than its library"));
  }
  lib.initialized = true;
  unsigned count = 0;
  if (lib.count(&count) != kSuccess || count == 0)
    return absl::NotFoundError("the driver knows no GPU");
  if (lib.event_set != nullptr && lib.event_set(&nvml->events_) != kSuccess)
    nvml->events_ = nullptr;
  for (unsigned i = 0; i < count; ++i) {
    void* device = nullptr;
    if (lib.by_index(i, &device) != kSuccess) device = nullptr;
    nvml->devices_.push_back(device);
    if (device == nullptr || nvml->events_ == nullptr || lib.event_register == nullptr) continue;
    if (lib.event_register(device, kXidEvent, nvml->events_) == kSuccess) {
      for (const uint64_t xid : kKnownXids) nvml->xids_[device][xid] = 0;
    }
  }
  return nvml;
}

void Nvml::DrainEvents() {
  if (events_ == nullptr || library_->event_wait == nullptr) return;
  EventData event = {};
  // A driver that repeats itself must not hold us here.
  for (int i = 0; i < 100 && library_->event_wait(events_, &event, 0) == kSuccess; ++i) {
    if (event.type == kXidEvent) ++xids_[event.device][event.data];
  }
}

std::vector<GpuReading> Nvml::Read() {
  DrainEvents();
  const Library& lib = *library_;
  char driver[kNameBytes] = {};
  if (lib.driver == nullptr || lib.driver(driver, kNameBytes) != kSuccess) driver[0] = '\0';
  std::vector<GpuReading> readings;
  for (size_t i = 0; i < devices_.size(); ++i) {
    void* device = devices_[i];
    if (device == nullptr) continue;
    GpuReading gpu;
    gpu.index = static_cast<int>(i);
    gpu.driver = driver;
    gpu.uuid = lib.Text(lib.uuid, device);
    gpu.product = lib.Text(lib.name, device);
    if (Memory memory = {}; lib.memory != nullptr && lib.memory(device, &memory) == kSuccess) {
      gpu.memory_total_bytes = static_cast<double>(memory.total);
      gpu.memory_used_bytes = static_cast<double>(memory.used);
    }
    gpu.process_bytes = lib.ProcessBytes(device);
    if (Utilization use = {};
        lib.utilization != nullptr && lib.utilization(device, &use) == kSuccess) {
      gpu.utilization_ratio = use.gpu / 100.0;
    }
    gpu.energy_joules = Library::Number(lib.energy_mj, 1e-3, device);
    gpu.power_limit_watts = Library::Number(lib.power_limit_mw, 1e-3, device);
    gpu.temperature_celsius = Library::Number(lib.temperature, 1, device, kSensorCore);
    gpu.sm_clock_hertz = Library::Number(lib.clock_mhz, 1e6, device, kClockSm);
    for (const Policy& policy : kPolicies) {
      ViolationTime time = {};
      if (lib.violation == nullptr || lib.violation(device, policy.number, &time) != kSuccess)
        continue;
      gpu.throttle_seconds[policy.reason] = static_cast<double>(time.violation_ns) * 1e-9;
    }
    if (const auto xids = xids_.find(device); xids != xids_.end()) gpu.xid_errors = xids->second;
    readings.push_back(std::move(gpu));
  }
  return readings;
}

}  // namespace finetuned::metrics
