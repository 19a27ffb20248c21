#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/job/train_spec.h"

namespace finetuned::train {

job::RunResult ToolFailure(job::Outcome outcome, const std::string& reason, absl::string_view message);

// What a failed step of an export or evaluation job means. `reason`: of statuses that blame the configuration.
job::RunResult ToolFailureOf(const absl::Status& status, const std::string& reason, const job::RunControl& control);

}  // namespace finetuned::train
