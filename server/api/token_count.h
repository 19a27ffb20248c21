#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "finetuned/v1/datasets.pb.h"

namespace finetuned::api {

struct PlannedJob;

// Tokenizes the first row: finds a template that cannot render, or a loss_on that does not suit it,
// before the job waits in the queue. INVALID_ARGUMENT of job.spec.dataset.
absl::Status CheckFirstRow(const PlannedJob& planned);

struct TokenCount {
  v1::DatasetStats stats;             // of the whole file; scaled up when only its beginning was read
  std::vector<std::string> warnings;
};
// Tokenizes the file, or the first whole rows of a large one.
absl::StatusOr<TokenCount> CountTokens(const PlannedJob& planned);

// Checkpoints and the exported adapter.
int64_t EstimateDisk(const PlannedJob& planned);
// Of the whole run; 0 where the device's speed is not known.
double EstimateSeconds(const PlannedJob& planned, const v1::DatasetStats& stats);

}  // namespace finetuned::api
