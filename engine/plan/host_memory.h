#pragma once

#include <cstdint>

namespace finetuned::plan {

// What this host could give without swapping (MemAvailable of /proc/meminfo); 0: not known.
int64_t AvailableHostMemory();

// What of that offloaded inputs may take: pinned pages are lost to everybody else.
inline int64_t OffloadBudget(int64_t available_bytes) { return available_bytes / 10 * 7; }

}  // namespace finetuned::plan
