#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/plan/memory_plan.h"
#include "engine/worker/device_info.h"

namespace finetuned::worker {

using Measure = std::function<std::optional<plan::DeviceConstants>()>;

// What a process takes of this device beside tensors, measured once: the result is kept in `path`, with the device, the
// versions of driver, CUDA and LibTorch, and this program's; where any of these is another, `measure` is called again.
// Nothing on the CPU, or where it cannot be measured; that is not kept. `path` empty: nothing is read or kept. A file
// that cannot be read or written is as good as none.
std::optional<plan::DeviceConstants> MeasuredOnce(const std::string& path, const DeviceInfo& device,
                                                  const Measure& measure);

}  // namespace finetuned::worker
