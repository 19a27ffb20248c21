#pragma once

#include "absl/status/status.h"
#include "server/store/database.h"

namespace finetuned::store {

// Brings the database to kSchemaVersion, one transaction per version. FAILED_PRECONDITION: it belongs to
// another program or to a newer finetuned.
absl::Status Migrate(Database* db);

}  // namespace finetuned::store
