#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace finetuned::train {

// What the driver says through NVML (libnvidia-ml, opened when it is there): also before this process has a context.
// Nothing where the library or the device is missing.

// Bytes of the device that are held, by whomever.
std::optional<int64_t> DriverUsedBytes(int device_index);
// "580.159.04"; empty: not known.
std::string DriverVersion();

}  // namespace finetuned::train
