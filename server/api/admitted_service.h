#pragma once

#include <memory>
#include <string>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/server_interceptor.h>

#include "server/api/admission.h"

namespace finetuned::api {

// A callback service in front of another, whose calls with one message (unary and server streaming) it hands on once
// `admission` let their message in. To gRPC they are streams: of those it reads no message before it is asked to, and
// keeps at most a window (16 KiB). On the wire nothing differs. Calls with many messages are handed on at once, or end
// with RESOURCE_EXHAUSTED.
// Register it instead of `service`; both outlive the server. The server needs MakeAdmissionInterceptor as well.
class AdmittedService : public grpc::Service {
 public:
  AdmittedService(const google::protobuf::ServiceDescriptor& descriptor, grpc::Service* service, Admission* admission);

 private:
  std::vector<std::string> names_;  // of the methods, as gRPC wants them
};

// Tells `admission` when a call has ended.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAdmissionInterceptor(Admission* admission);

}  // namespace finetuned::api
