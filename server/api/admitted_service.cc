#include "server/api/admitted_service.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpcpp/impl/codegen/interceptor_common.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/server_context.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace finetuned::api {
namespace {

using google::protobuf::MethodDescriptor;
using grpc::internal::MethodHandler;
using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;

constexpr char kTooSlow[] =
    "the message did not arrive in time while other calls waited for memory (limits.max_rpc_memory_bytes); call again";
constexpr char kTooMany[] =
    "too many uploads and reward workers for limits.max_rpc_memory_bytes; wait for one to end and call again";

// A service's handlers are for its subclasses only; one that has none of its own may ask for those of another.
struct Handlers : grpc::Service {
  static MethodHandler* Of(grpc::Service* service, int index) { return (service->*&Handlers::GetHandler)(index); }
};

// One call, from its headers to the moment `inner` takes it over. Deletes itself.
class Arrival : public grpc_completion_queue_functor {
 public:
  Arrival(const MethodHandler::HandlerParameter& call, MethodHandler* inner, Admission* admission)
      : call_(call), inner_(inner), admission_(admission) {
    functor_run = [](grpc_completion_queue_functor* self, int ok) { static_cast<Arrival*>(self)->OnMessage(ok); };
    inlineable = 0;
    internal_success = 0;
    internal_next = nullptr;
  }

  void Begin() {
    grpc_call* call = call_.call->call();
    grpc_call_ref(call);
    const std::shared_ptr<grpc_call> held(call, grpc_call_unref);  // give_up may come when the call is over
    admission_->Enter(call_.server_context, call_.server_context->peer(), [this] { Read(); },
                      [held] { grpc_call_cancel_with_status(held.get(), GRPC_STATUS_RESOURCE_EXHAUSTED, kTooSlow, nullptr); });
  }

 private:
  void Read() {
    grpc_op read = {};
    read.op = GRPC_OP_RECV_MESSAGE;
    read.data.recv_message.recv_message = &message_;
    if (grpc_call_start_batch(call_.call->call(), &read, 1, static_cast<grpc_completion_queue_functor*>(this), nullptr) !=
        GRPC_CALL_OK) {
      OnMessage(0);
    }
  }

  // Without a message (the caller left, or was given up) `inner` ends the call.
  void OnMessage(int) {
    admission_->Arrived(call_.server_context,
                        message_ == nullptr ? 0 : static_cast<int64_t>(grpc_byte_buffer_length(message_)));
    request_ = inner_->Deserialize(call_.call->call(), message_, &status_, &data_);
    hooks_.SetCall(call_.call);
    hooks_.SetReverse();
    hooks_.AddInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::POST_RECV_MESSAGE);
    hooks_.SetRecvMessage(request_, nullptr);
    if (hooks_.RunInterceptors([this] { HandOn(); })) HandOn();
  }

  void HandOn() {
    inner_->RunHandler({call_.call, call_.server_context, request_, status_, data_, call_.call_requester});
    delete this;
  }

  const MethodHandler::HandlerParameter call_;
  MethodHandler* const inner_;
  Admission* const admission_;
  grpc_byte_buffer* message_ = nullptr;
  void* request_ = nullptr;
  void* data_ = nullptr;
  grpc::Status status_;
  grpc::internal::InterceptorBatchMethodsImpl hooks_;
};

class Admitted : public MethodHandler {
 public:
  Admitted(MethodHandler* inner, Admission* admission) : inner_(inner), admission_(admission) {}
  void RunHandler(const HandlerParameter& call) override { (new Arrival(call, inner_, admission_))->Begin(); }

 private:
  MethodHandler* const inner_;
  Admission* const admission_;
};

class AdmittedStream : public MethodHandler {
 public:
  AdmittedStream(MethodHandler* inner, Admission* admission) : inner_(inner), admission_(admission) {}
  void RunHandler(const HandlerParameter& call) override {
    if (!admission_->EnterStream(call.server_context)) {
      grpc_call_cancel_with_status(call.call->call(), GRPC_STATUS_RESOURCE_EXHAUSTED, kTooMany, nullptr);
    }
    inner_->RunHandler(call);  // ends a cancelled call at its first read
  }

 private:
  MethodHandler* const inner_;
  Admission* const admission_;
};

class End : public grpc::experimental::Interceptor {
 public:
  End(Admission* admission, Admission::Call call) : admission_(admission), call_(call) {}
  ~End() override { admission_->Leave(call_); }
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  Admission* const admission_;
  const Admission::Call call_;
};

class Factory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Admission* admission) : admission_(admission) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new End(admission_, info->server_context());
  }

 private:
  Admission* const admission_;
};

}  // namespace

AdmittedService::AdmittedService(const google::protobuf::ServiceDescriptor& descriptor, grpc::Service* service,
                                 Admission* admission) {
  names_.reserve(descriptor.method_count());  // gRPC keeps pointers to them
  for (int i = 0; i < descriptor.method_count(); ++i) {
    const MethodDescriptor& method = *descriptor.method(i);
    names_.push_back(absl::StrCat("/", descriptor.full_name(), "/", method.name()));
    MethodHandler* inner = Handlers::Of(service, i);
    const bool many = method.client_streaming();
    AddMethod(new RpcServiceMethod(names_.back().c_str(),
                                   many && !method.server_streaming() ? RpcMethod::CLIENT_STREAMING : RpcMethod::BIDI_STREAMING,
                                   nullptr));
    if (many) {
      MarkMethodCallback(i, new AdmittedStream(inner, admission));
    } else {
      MarkMethodCallback(i, new Admitted(inner, admission));
    }
  }
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAdmissionInterceptor(Admission* admission) {
  return std::make_unique<Factory>(admission);
}

}  // namespace finetuned::api
