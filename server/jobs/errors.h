#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

// Statuses that carry google.rpc details: each detail is a payload of the absl::Status under the type URL
// of its message ("type.googleapis.com/google.rpc.ErrorInfo"), its value the serialized message. The API
// copies payloads with such URLs into the details of the gRPC status.
namespace finetuned::jobs {

inline constexpr char kTypeUrlPrefix[] = "type.googleapis.com/";
inline constexpr char kErrorDomain[] = "finetuned";

// Attaches `detail` (google.rpc.ErrorInfo, BadRequest, ...) to `status`.
void AddDetail(absl::Status* status, const google::protobuf::Message& detail);
// With ErrorInfo{domain "finetuned", reason, metadata}.
absl::Status ErrorWithInfo(absl::StatusCode code, const std::string& message, const std::string& reason,
                           const std::map<std::string, std::string>& metadata = {});

// Absolute paths cut to their last part: "cannot open /var/lib/x/y: no" -> "cannot open y: no". What clients see,
// texts of the worker included, tells nothing of the daemon's disk.
std::string WithoutPaths(std::string_view text);

absl::Status NotFound(const std::string& type, const std::string& name);  // ("job", "jobs/x")
absl::Status EtagMismatch(const std::string& name, const std::string& sent, const std::string& current);
absl::Status QueueFull(int64_t limit);
absl::Status Draining();
// UNAVAILABLE with RetryInfo: the device is needed for something else, `why` says for what.
absl::Status DeviceBusy(const std::string& why, int retry_seconds);

}  // namespace finetuned::jobs
