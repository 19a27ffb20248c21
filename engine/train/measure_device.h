#pragma once

#include <cstdint>
#include <optional>

#include "engine/plan/memory_plan.h"

namespace finetuned::train {

// What a measurement reads and does; tests put their own in its place.
class DeviceMeter {
 public:
  virtual ~DeviceMeter() = default;
  // Bytes of the device that are held, by whomever; also before this process has a context. Nothing: not known.
  virtual std::optional<int64_t> Used() = 0;
  // Makes the context and runs every kind of work that a job does, once and small. Leaves no tensors, and no cached
  // memory but what libraries keep. False: it could not.
  virtual bool Work() = 0;
  // Bytes that the allocator holds of the device, and of these handed out.
  virtual int64_t Reserved() = 0;
  virtual int64_t Allocated() = 0;
};

// What a process takes of its GPU beside tensors: what the driver counts more after Work than before, less what the
// allocator holds, and a margin for kernels that other shapes load; what libraries keep of the allocator is their
// workspace. Nothing where the driver does not tell, or says what cannot be: another process came or went meanwhile.
std::optional<plan::DeviceConstants> MeasureWith(DeviceMeter& meter);

// Of GPU `device_index`, in two or three seconds. REQUIRES: this process has not used the device before. Never throws.
std::optional<plan::DeviceConstants> MeasureDevice(int device_index);

}  // namespace finetuned::train
