#include "server/api/error.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/time_util.h>
#include <google/rpc/error_details.pb.h>

#include <algorithm>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetuned::api {
namespace {

constexpr char kTypeUrlPrefix[] = "type.googleapis.com/";
constexpr char kDomain[] = "finetuned";
constexpr std::chrono::milliseconds kDefaultRetry{1000};

// Collects the details of one error.
class Builder {
 public:
  Builder(absl::StatusCode code, std::string message) : status_(code, message) {}
  explicit Builder(const absl::Status& status) : status_(status) {}
  Builder& Info(std::string reason, const Metadata& metadata = {}) {
    google::rpc::ErrorInfo info;
    info.set_domain(kDomain);
    info.set_reason(std::move(reason));
    for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
    return Add(info);
  }
  Builder& Resource(std::string_view type, std::string_view name, std::string description = "") {
    google::rpc::ResourceInfo info;
    info.set_resource_type(absl::StrCat("finetuned.v1.", absl::string_view(type.data(), type.size())));
    info.set_resource_name(std::string(name));
    info.set_description(std::move(description));
    return Add(info);
  }
  Builder& Quota(std::string_view subject, std::string description) {
    google::rpc::QuotaFailure failure;
    auto* violation = failure.add_violations();
    violation->set_subject(std::string(subject));
    violation->set_description(std::move(description));
    return Add(failure);
  }
  Builder& Precondition(std::string type, std::string_view subject, std::string description) {
    google::rpc::PreconditionFailure failure;
    auto* violation = failure.add_violations();
    violation->set_type(std::move(type));
    violation->set_subject(std::string(subject));
    violation->set_description(std::move(description));
    return Add(failure);
  }
  Builder& Retry(std::chrono::milliseconds delay) {
    google::rpc::RetryInfo info;
    *info.mutable_retry_delay() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(delay.count());
    return Add(info);
  }
  Builder& Add(const google::protobuf::Message& detail) {
    status_.SetPayload(absl::StrCat(kTypeUrlPrefix, detail.GetDescriptor()->full_name()),
                       absl::Cord(detail.SerializeAsString()));
    return *this;
  }
  absl::Status Build() const { return status_; }

 private:
  absl::Status status_;
};

template <typename Detail>
bool Has(const absl::Status& status) {
  return status.GetPayload(absl::StrCat(kTypeUrlPrefix, Detail::descriptor()->full_name())).has_value();
}

// With what the contract asks for and whoever made the status left out.
absl::Status Completed(const absl::Status& status) {
  using absl::StatusCode;
  const std::string text(status.message());
  Builder builder(status);
  std::string reason = absl::StatusCodeToString(status.code());
  if (!Has<google::rpc::ErrorInfo>(status)) {
    builder.Info(reason);
  } else {
    google::rpc::ErrorInfo info;
    info.ParseFromString(std::string(
        *status.GetPayload(absl::StrCat(kTypeUrlPrefix, google::rpc::ErrorInfo::descriptor()->full_name()))));
    reason = info.reason();
  }
  const bool retry = Has<google::rpc::RetryInfo>(status);
  switch (status.code()) {
    case StatusCode::kFailedPrecondition:
      if (!Has<google::rpc::PreconditionFailure>(status)) builder.Precondition(reason, "", text);
      break;
    case StatusCode::kUnavailable:
      if (!retry) builder.Retry(kDefaultRetry);
      break;
    case StatusCode::kResourceExhausted:
      if (!retry && !Has<google::rpc::QuotaFailure>(status)) builder.Retry(kDefaultRetry);
      break;
    case StatusCode::kInvalidArgument:
      if (!Has<google::rpc::BadRequest>(status)) {
        google::rpc::BadRequest bad;
        bad.add_field_violations()->set_description(text);
        builder.Add(bad);
      }
      break;
    default:
      break;
  }
  return builder.Build();
}

// Cuts absolute paths in every text of a detail, those of messages below it included.
void CutPaths(google::protobuf::Message* message) {
  const auto* reflection = message->GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  for (const auto* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(*message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
        CutPaths(field->is_repeated() ? reflection->MutableRepeatedMessage(message, field, i)
                                      : reflection->MutableMessage(message, field));
      } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING) {
        if (field->is_repeated()) {
          reflection->SetRepeatedString(message, field, i, WithoutPaths(reflection->GetRepeatedString(*message, field, i)));
        } else {
          reflection->SetString(message, field, WithoutPaths(reflection->GetString(*message, field)));
        }
      }
    }
  }
}

// The value of a payload without absolute paths.
absl::Cord Clean(absl::string_view url, const absl::Cord& value) {
  const auto* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(
      std::string(url.substr(sizeof(kTypeUrlPrefix) - 1)));
  if (type == nullptr) return absl::Cord();
  std::unique_ptr<google::protobuf::Message> detail(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
  if (!detail->ParseFromString(std::string(value))) return absl::Cord();
  CutPaths(detail.get());
  return absl::Cord(detail->SerializeAsString());
}

}  // namespace

absl::Status InvalidFields(const std::vector<spec::Violation>& violations) {
  google::rpc::BadRequest bad;
  const size_t shown = std::min<size_t>(violations.size(), kMaxViolations);
  for (size_t i = 0; i < shown; ++i) {
    auto* out = bad.add_field_violations();
    out->set_field(violations[i].path);
    out->set_description(violations[i].message);
  }
  std::string text = violations.empty()
                         ? "a field is wrong"
                         : absl::StrCat(violations[0].path, ": ", violations[0].message);
  if (violations.size() > 1) absl::StrAppend(&text, " (and ", violations.size() - 1, " more)");
  return Builder(absl::StatusCode::kInvalidArgument, text).Info("INVALID_FIELD").Add(bad).Build();
}

absl::Status InvalidField(std::string path, std::string message) {
  return InvalidFields({{std::move(path), std::move(message)}});
}

absl::Status NotAvailable(std::string path, std::string message) {
  return Builder(absl::StatusCode::kUnimplemented, absl::StrCat(path, ": ", message))
      .Info("NOT_AVAILABLE", {{"field", path}})
      .Build();
}

absl::Status NotFound(std::string_view type, std::string_view name) {
  const absl::string_view shown(name.data(), std::min<size_t>(name.size(), 200));
  return Builder(absl::StatusCode::kNotFound, absl::StrCat("there is no ", shown))
      .Info("NOT_FOUND")
      .Resource(type, std::string_view(shown.data(), shown.size()))
      .Build();
}

absl::Status AlreadyExists(std::string_view type, std::string_view name, std::string message) {
  return Builder(absl::StatusCode::kAlreadyExists, message).Info("ALREADY_EXISTS").Resource(type, name).Build();
}

absl::Status WrongState(std::string_view subject, std::string reason, std::string message,
                        Metadata metadata) {
  return Builder(absl::StatusCode::kFailedPrecondition, message)
      .Info(reason, metadata)
      .Precondition(reason, subject, message)
      .Build();
}

absl::Status EtagMismatch(std::string_view name, std::string_view current) {
  return Builder(absl::StatusCode::kAborted,
                 absl::StrCat(std::string(name), " has changed since it was read; read it again"))
      .Info("ETAG_MISMATCH", {{"current", std::string(current)}})
      .Build();
}

absl::Status Conflict(std::string reason, std::string message) {
  return Builder(absl::StatusCode::kAborted, std::move(message)).Info(std::move(reason)).Retry(kDefaultRetry).Build();
}

absl::Status VramExceeded(int64_t predicted_bytes, int64_t budget_bytes, std::string suggestion,
                          std::string message) {
  return Builder(absl::StatusCode::kResourceExhausted, message)
      .Info("VRAM_BUDGET_EXCEEDED", {{"predicted_bytes", absl::StrCat(predicted_bytes)},
                                     {"budget_bytes", absl::StrCat(budget_bytes)},
                                     {"suggestion", std::move(suggestion)}})
      .Quota("vram", message)
      .Build();
}

absl::Status QuotaExceeded(std::string_view subject, std::string reason, std::string message) {
  return Builder(absl::StatusCode::kResourceExhausted, message)
      .Info(std::move(reason))
      .Quota(subject, message)
      .Build();
}

absl::Status Busy(std::string reason, std::string message, std::chrono::milliseconds retry) {
  return Builder(absl::StatusCode::kResourceExhausted, std::move(message))
      .Info(std::move(reason))
      .Retry(retry)
      .Build();
}

absl::Status Unavailable(std::string reason, std::string message, std::chrono::milliseconds retry) {
  return Builder(absl::StatusCode::kUnavailable, std::move(message))
      .Info(std::move(reason))
      .Retry(retry)
      .Build();
}

absl::Status HistoryCompacted(std::string_view name, int64_t first_available) {
  return Builder(absl::StatusCode::kOutOfRange,
                 absl::StrCat("events of ", std::string(name), " before ", first_available, " are gone"))
      .Info("HISTORY_COMPACTED", {{"first_available", absl::StrCat(first_available)}})
      .Build();
}

absl::Status ChecksumMismatch(std::string_view type, std::string_view name, std::string message) {
  return Builder(absl::StatusCode::kDataLoss, message)
      .Info("CHECKSUM_MISMATCH")
      .Resource(type, name, message)
      .Build();
}

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int>(status.code()));
  rpc.set_message(WithoutPaths(std::string(status.message())));
  if (status.ok()) return rpc;
  std::map<std::string, std::string> details;  // by type: the same order every time
  absl::Status clean(status.code(), rpc.message());
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    if (absl::StartsWith(url, kTypeUrlPrefix)) clean.SetPayload(url, Clean(url, value));
  });
  Completed(clean).ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    details[std::string(url)] = std::string(value);
  });
  for (auto& [url, value] : details) {
    auto* detail = rpc.add_details();
    detail->set_type_url(url);
    detail->set_value(value);
  }
  return rpc;
}

std::string RejectionReason(const absl::Status& status) {
  const google::rpc::Status rpc = ToRpcStatus(status);
  google::rpc::ErrorInfo info;
  for (const auto& detail : rpc.details()) {
    if (detail.UnpackTo(&info)) break;
  }
  return absl::AsciiStrToLower(info.reason());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status rpc = ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(rpc.code()), rpc.message(), rpc.SerializeAsString());
}

}  // namespace finetuned::api
