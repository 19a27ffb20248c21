#pragma once

#include <optional>

#include "engine/plan/auto_settings.h"
#include "finetuned/v1/datasets.pb.h"
#include "finetuned/v1/spec.pb.h"
#include "server/api/device_budget.h"
#include "server/api/job_planner.h"

namespace finetuned::api {

// Whether the lengths of the rows decide anything that `sent` left open on this device.
bool NeedsLengths(const v1::JobSpec& sent, const DeviceBudget& device);

// Row lengths from the statistics of tokens that were cut at nothing but the model's limit.
plan::DataLengths LengthsOf(const v1::DatasetStats& stats, bool packed);

// Decides what `sent` left open and job->resolved holds a default for, with a choice and its reason each. On a GPU
// of known memory the settings of plan::ChooseSettings; elsewhere the defaults.
void ChooseOpenSettings(const v1::JobSpec& sent, const DeviceBudget& device,
                        const std::optional<plan::DataLengths>& lengths, int64_t model_max_length, PlannedJob* job);

}  // namespace finetuned::api
