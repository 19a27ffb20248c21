#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace finetuned::api {

// RESOURCE_EXHAUSTED, DISK_FULL, when `more` bytes would leave less than `min_free` on the file system
// of `folder`. OK where that cannot be measured.
absl::Status CheckFreeDisk(const std::string& folder, int64_t more, int64_t min_free);

// errno of a failed file operation: a full disk is RESOURCE_EXHAUSTED, DISK_FULL.
absl::Status DiskError(const std::string& doing);

// Makes renames and new files in a folder durable.
absl::Status SyncFolder(const std::string& folder);

}  // namespace finetuned::api
