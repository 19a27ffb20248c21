#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "finetuned/v1/datasets.pb.h"

// Between the plain structs of engine/data and the API's messages.
namespace finetuned::api {

// "sft" (also for empty), "dpo", "kto", "grpo". INVALID_ARGUMENT of field `method`.
absl::StatusOr<data::Method> MethodFromName(const std::string& name);

// ACTIVE or INVALID with its findings; created now.
v1::Dataset ToDataset(const std::string& name, const std::string& method, const data::ValidationReport& report);

v1::DatasetStats ToProto(const data::DatasetStats& stats);

// How the rows of a job or a preview become tokens. `sft` may have unset fields.
// How a resolved job's rows become tokens. 0: 1024.
data::TokenizeOptions ToTokenizeOptions(const v1::JobSpec& spec, int64_t max_seq_length);

}  // namespace finetuned::api
