#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "server/store/store.h"

namespace finetuned::jobs {

// Moves the adapter a job made from its directory to Layout::AdapterDir and describes it, each file with
// its sha256. Doing it again after a crash gives the same. INTERNAL: the worker named a folder that does
// not exist or lies elsewhere; otherwise the error of the file system.
absl::StatusOr<store::AdapterRecord> TakeAdapter(const store::Layout& layout, const v1::Job& job,
                                                 const internal::v1::WorkerFinished& finished,
                                                 absl::Time now);

}  // namespace finetuned::jobs
