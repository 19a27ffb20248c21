#pragma once

#include "absl/status/statusor.h"
#include "finetuned/internal/v1/worker.pb.h"
#include "finetuned/v1/adapters.pb.h"
#include "server/api/front.h"

namespace finetuned::api {

// What the worker is to do for a request: every default filled in, every name turned into a path. INVALID_ARGUMENT
// names all fields that are wrong; NOT_FOUND. Reads the disk.
absl::StatusOr<internal::v1::RunSample> PlanSample(Shared* shared, const v1::SampleRequest& request);

}  // namespace finetuned::api
