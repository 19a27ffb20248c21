#include "server/api/audit_interceptor.h"

#include <google/protobuf/message.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"

namespace finetuned::api {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using grpc::experimental::InterceptionHookPoints;

constexpr std::string_view kAudited[] = {
    "CreateJob",     "UpdateJob",     "DeleteJob",      "CancelJob",       "PauseJob",    "ResumeJob",
    "RetryJob",      "StopJob",       "CheckpointJob",  "UploadDataset",   "DeleteDataset", "DeleteAdapter",
    "DownloadAdapter", "AttachRewardWorker", "DrainServer"};

// The string in the first of the fields that the message has; looks one message down for "job.name" and "hello.job".
std::string TextOf(const Message& message, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
    if (field == nullptr || field->is_repeated()) continue;
    std::string text;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      text = message.GetReflection()->GetString(message, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
               message.GetReflection()->HasField(message, field)) {
      text = TextOf(message.GetReflection()->GetMessage(message, field), {"name", "job"});
    }
    if (!text.empty()) return text;
  }
  return "";
}

std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (!details.ParseFromString(status.error_details())) return "";
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return "";
}

class AuditInterceptor : public grpc::experimental::Interceptor {
 public:
  AuditInterceptor(audit::AuditLog* log, const auth::Authenticator* authenticator,
                   grpc::experimental::ServerRpcInfo* info)
      : log_(log), authenticator_(authenticator), info_(info) {
    method_ = info->method();
    if (absl::StartsWith(method_, "/")) method_.erase(0, 1);
    const std::string name = method_.substr(method_.rfind('/') + 1);
    audited_ = std::find(std::begin(kAudited), std::end(kAudited), name) != std::end(kAudited);
    ours_ = absl::StartsWith(method_, "finetuned.");
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (audited_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      Look(static_cast<const Message*>(methods->GetRecvMessage()));
    }
    if (ours_ && methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Write(methods->GetSendStatus());
    }
    methods->Proceed();
  }

 private:
  void Look(const Message* request) {
    if (request == nullptr || !resource_.empty()) return;  // of a stream: the first message tells
    resource_ = TextOf(*request, {"name", "job_id", "dataset_id", "job", "hello"});
    request_id_ = TextOf(*request, {"request_id"});
  }

  void Write(const grpc::Status& status) {
    const bool refused = status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
                         status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
    if ((!audited_ && !refused) || written_) return;
    written_ = true;
    audit::Entry entry;
    entry.time = absl::Now();
    const grpc::ServerContextBase& context = *info_->server_context();
    const auto caller = authenticator_->Identify(context);
    if (caller.ok()) entry.principal = caller->principal;
    entry.peer = context.peer();
    entry.method = method_;
    entry.resource = resource_;
    entry.request_id = request_id_;
    entry.code = absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
    entry.reason = ReasonOf(status);
    log_->Write(entry);
  }

  audit::AuditLog* const log_;
  const auth::Authenticator* const authenticator_;
  grpc::experimental::ServerRpcInfo* const info_;
  std::string method_, resource_, request_id_;
  bool audited_ = false, ours_ = false, written_ = false;
};

class Factory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(audit::AuditLog* log, const auth::Authenticator* authenticator) : log_(log), authenticator_(authenticator) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new AuditInterceptor(log_, authenticator_, info);
  }

 private:
  audit::AuditLog* const log_;
  const auth::Authenticator* const authenticator_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAuditInterceptor(
    audit::AuditLog* log, const auth::Authenticator* authenticator) {
  return std::make_unique<Factory>(log, authenticator);
}

}  // namespace finetuned::api
