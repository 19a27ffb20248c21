#pragma once

#include <string>
#include <string_view>

#include <google/protobuf/message.h>

#include "absl/status/statusor.h"
#include "finetuned/v1/jobs.pb.h"

namespace finetuned::spec {

// Reads a job file: YAML, or JSON, which is YAML too. The top level is a Job; fields of its spec may
// stand there as well (base_model beside name), so a short file needs no nesting. Durations are "90s",
// "15m", "2h" or "1d"; times are RFC 3339. At most 1 MiB and 100,000 nodes.
// INVALID_ARGUMENT names file, line, field and, for a misspelt key, the nearest known one.
absl::StatusOr<v1::Job> ParseJobFile(std::string_view text, const std::string& file_name);

// As YAML or indented JSON, with the field names of the .proto files.
std::string MessageToYaml(const google::protobuf::Message& message);
std::string MessageToJson(const google::protobuf::Message& message);

}  // namespace finetuned::spec
