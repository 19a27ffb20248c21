#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <google/rpc/status.pb.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "proto/spec/resolve.h"
#include "server/jobs/errors.h"

// The error contract of the API in one place. Each function gives an absl::Status that carries google.rpc
// details as payloads (jobs/errors.h); ToGrpc turns any status into what goes over the wire. Every answer has
// an ErrorInfo with domain "finetuned" and a stable reason.
namespace finetuned::api {

inline constexpr int kMaxViolations = 20;

using Metadata = std::map<std::string, std::string>;

// INVALID_ARGUMENT with BadRequest; at most 20 violations are listed, the text tells how many there are.
absl::Status InvalidFields(const std::vector<spec::Violation>& violations);
absl::Status InvalidField(std::string path, std::string message);
// UNIMPLEMENTED: part of the API, not of this version.
absl::Status NotAvailable(std::string path, std::string message);
// NOT_FOUND with ResourceInfo; `name` is "jobs/x".
absl::Status NotFound(std::string_view type, std::string_view name);
absl::Status AlreadyExists(std::string_view type, std::string_view name, std::string message);
// FAILED_PRECONDITION with PreconditionFailure.
absl::Status WrongState(std::string_view subject, std::string reason, std::string message,
                        Metadata metadata = {});
// ABORTED: the resource has changed since the caller read it.
absl::Status EtagMismatch(std::string_view name, std::string_view current);
// ABORTED: something else is doing the same now.
absl::Status Conflict(std::string reason, std::string message);
// RESOURCE_EXHAUSTED with QuotaFailure and ErrorInfo VRAM_BUDGET_EXCEEDED.
absl::Status VramExceeded(int64_t predicted_bytes, int64_t budget_bytes, std::string suggestion,
                          std::string message);
// RESOURCE_EXHAUSTED with QuotaFailure: a fixed limit; trying again does not help.
absl::Status QuotaExceeded(std::string_view subject, std::string reason, std::string message);
// RESOURCE_EXHAUSTED with RetryInfo: too much at the moment.
absl::Status Busy(std::string reason, std::string message, std::chrono::milliseconds retry);
// UNAVAILABLE with RetryInfo.
absl::Status Unavailable(std::string reason, std::string message, std::chrono::milliseconds retry);
// OUT_OF_RANGE: events before `first_available` are gone.
absl::Status HistoryCompacted(std::string_view name, int64_t first_available);
// DATA_LOSS with ResourceInfo: a checksum differs.
absl::Status ChecksumMismatch(std::string_view type, std::string_view name, std::string message);

// What the client sees. Details that the code asks for and whoever made the status left out are added:
// ErrorInfo with the name of the code, PreconditionFailure, RetryInfo, BadRequest. Absolute paths in the
// text and in every detail are cut to their last part.
grpc::Status ToGrpc(const absl::Status& status);

// The google.rpc.Status of a status, for fields of that type; as ToGrpc.
google::rpc::Status ToRpcStatus(const absl::Status& status);

// The reason of its ErrorInfo in lower case, for metrics: "vram_budget_exceeded".
std::string RejectionReason(const absl::Status& status);

using jobs::WithoutPaths;

}  // namespace finetuned::api
