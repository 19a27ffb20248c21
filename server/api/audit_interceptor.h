#pragma once

#include <memory>

#include <grpcpp/support/server_interceptor.h>

#include "server/audit/audit_log.h"
#include "server/auth/caller.h"

namespace finetuned::api {

// Sees every call of a listener and writes those to the audit log that change something or take data away, and every
// call that is refused for who makes it. `log` and `authenticator` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAuditInterceptor(
    audit::AuditLog* log, const auth::Authenticator* authenticator);

}  // namespace finetuned::api
