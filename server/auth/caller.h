#pragma once

#include <string>

#include <grpcpp/server_context.h>

#include "absl/status/statusor.h"

namespace finetuned::auth {

// Who makes a call.
struct Caller {
  std::string principal;  // "uid:1000", "token", "tls:CN of the certificate"
  bool local = false;     // on the Unix socket: sees this machine's files
};

// Tells who makes a call on one listener. Thread safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // UNAUTHENTICATED: no or wrong credentials. PERMISSION_DENIED: known, but may not use the daemon.
  virtual absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const = 0;
};

}  // namespace finetuned::auth
