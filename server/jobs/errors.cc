#include "server/jobs/errors.h"

#include <google/rpc/error_details.pb.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace finetuned::jobs {
namespace {

bool StartsPath(std::string_view text, size_t i) {
  if (text[i] != '/' || i + 1 >= text.size() || !absl::ascii_isalnum(static_cast<unsigned char>(text[i + 1])))
    return false;
  return i == 0 || absl::ascii_isspace(static_cast<unsigned char>(text[i - 1])) ||
         std::string_view("\"'(=:[<").find(text[i - 1]) != std::string_view::npos;
}

}  // namespace

std::string WithoutPaths(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (!StartsPath(text, i)) {
      out += text[i++];
      continue;
    }
    const size_t end = std::min(text.find_first_of(" \t\n\"')(:;,]>", i), text.size());
    const std::string_view path = text.substr(i, end - i);
    out += path.substr(path.find_last_of('/') + 1);
    i = end;
  }
  return out;
}


void AddDetail(absl::Status* status, const google::protobuf::Message& detail) {
  status->SetPayload(absl::StrCat(kTypeUrlPrefix, detail.GetDescriptor()->full_name()),
                     absl::Cord(detail.SerializeAsString()));
}

absl::Status ErrorWithInfo(absl::StatusCode code, const std::string& message, const std::string& reason,
                           const std::map<std::string, std::string>& metadata) {
  absl::Status status(code, message);
  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(reason);
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  AddDetail(&status, info);
  return status;
}

absl::Status NotFound(const std::string& type, const std::string& name) {
  absl::Status status = ErrorWithInfo(absl::StatusCode::kNotFound, absl::StrCat(name, " does not exist"),
                                      "NOT_FOUND");
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(type);
  resource.set_resource_name(name);
  AddDetail(&status, resource);
  return status;
}

absl::Status EtagMismatch(const std::string& name, const std::string& sent, const std::string& current) {
  return ErrorWithInfo(absl::StatusCode::kAborted,
                       absl::StrCat(name, " has changed since it was read: etag ", sent, ", now ", current,
                                    "; read it again"),
                       "ETAG_MISMATCH", {{"etag", current}});
}

absl::Status QueueFull(int64_t limit) {
  absl::Status status =
      ErrorWithInfo(absl::StatusCode::kResourceExhausted,
                    absl::StrCat("the queue is full: it holds ", limit, " jobs"), "QUEUE_FULL",
                    {{"limit", absl::StrCat(limit)}});
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(60);
  AddDetail(&status, retry);
  return status;
}

absl::Status Draining() {
  absl::Status status = ErrorWithInfo(absl::StatusCode::kUnavailable,
                                      "the daemon is leaving and takes no new jobs; try again when it runs",
                                      "DRAINING");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(5);
  AddDetail(&status, retry);
  return status;
}

absl::Status DeviceBusy(const std::string& why, int retry_seconds) {
  absl::Status status = ErrorWithInfo(absl::StatusCode::kUnavailable, why, "DEVICE_BUSY");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(retry_seconds);
  AddDetail(&status, retry);
  return status;
}

}  // namespace finetuned::jobs
