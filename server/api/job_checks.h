#pragma once

#include <string>
#include <vector>

#include "finetuned/v1/jobs.pb.h"
#include "proto/spec/resolve.h"

namespace finetuned::api {

// What a client may say about a job beside its spec: display_name, labels, scheduling, ttl.
std::vector<spec::Violation> CheckJobFields(const v1::Job& job);

// request_id: empty, or up to 100 printable characters (a UUID is usual).
std::vector<spec::Violation> CheckRequestId(const std::string& request_id);

// Paths an UpdateJob may name; anything else is a violation. Checks the new values too.
std::vector<spec::Violation> CheckUpdate(const v1::UpdateJobRequest& request);

// Empty mask, or paths of Job; the others are violations of `read_mask`.
std::vector<spec::Violation> CheckReadMask(const google::protobuf::FieldMask& mask);
// Keeps what the mask names, and the name.
void ApplyReadMask(const google::protobuf::FieldMask& mask, v1::Job* job);

}  // namespace finetuned::api
