#pragma once

#include "absl/status/status.h"
#include "server/store/sqlite.h"

namespace finetuned::store {

// Version written by this program; older ones are migrated step by step, newer ones refused.
inline constexpr int kSchemaVersion = 1;

absl::Status Migrate(Database& db);

}  // namespace finetuned::store
