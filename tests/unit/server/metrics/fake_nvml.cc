// A libnvidia-ml.so.1 with one GPU, for machines that have none. The calls are those nvml.cc makes.
#include "tests/unit/server/metrics/fake_nvml.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

FakeGpu g_gpu;
int g_device;  // its address is the handle
constexpr int kOk = 0, kNotSupported = 3, kTimeout = 10;

}  // namespace

extern "C" {

FakeGpu* FakeNvmlGpu() { return &g_gpu; }

int nvmlInit_v2() { return g_gpu.driver_loaded ? kOk : 9; }
int nvmlShutdown() { return kOk; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 1, kOk; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  return *device = &g_device, kOk;
}
int nvmlSystemGetDriverVersion(char* text, unsigned size) {
  return std::snprintf(text, size, "580.95.05"), kOk;
}
int nvmlDeviceGetName(void*, char* text, unsigned size) {
  return std::snprintf(text, size, "NVIDIA GeForce RTX 3090"), kOk;
}
int nvmlDeviceGetUUID(void*, char* text, unsigned size) {
  return std::snprintf(text, size, "GPU-fake"), kOk;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* total_free_used) {
  total_free_used[0] = 24ull << 30;
  total_free_used[1] = 14ull << 30;
  total_free_used[2] = 10ull << 30;
  return kOk;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* count, void* processes) {
  const struct {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
  } list[] = {{4242, g_gpu.process_bytes, 0, 0}, {7, ~0ull, 0, 0}};
  std::memcpy(processes, list, sizeof list);
  return *count = 2, kOk;
}
int nvmlDeviceGetUtilizationRates(void*, unsigned* gpu_memory) {
  gpu_memory[0] = 97;
  gpu_memory[1] = 50;
  return kOk;
}
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
  *millijoules = g_gpu.energy_mj;
  return g_gpu.has_energy ? kOk : kNotSupported;
}
int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) {
  return *milliwatts = 350000, kOk;
}
int nvmlDeviceGetTemperature(void*, int sensor, unsigned* celsius) {
  return *celsius = 71 + sensor, kOk;
}
int nvmlDeviceGetClockInfo(void*, int clock, unsigned* mhz) {
  return *mhz = clock == 1 ? 1695 : 9751, kOk;
}
int nvmlDeviceGetViolationStatus(void*, int policy, unsigned long long* reference_violation) {
  reference_violation[1] = 2500000000ull;
  return policy == 1 ? kOk : kNotSupported;
}
int nvmlEventSetCreate(void** set) { return *set = &g_gpu, kOk; }
int nvmlEventSetFree(void*) { return kOk; }
int nvmlDeviceRegisterEvents(void*, unsigned long long, void*) { return kOk; }
int nvmlEventSetWait_v2(void*, void* data, unsigned) {
  if (g_gpu.pending_xid == 0) return kTimeout;
  struct {
    void* device;
    unsigned long long type, xid;
    unsigned gpu_instance, compute_instance;
  } event = {&g_device, 8, g_gpu.pending_xid, 0, 0};
  std::memcpy(data, &event, sizeof event);
  g_gpu.pending_xid = 0;
  return kOk;
}
}
