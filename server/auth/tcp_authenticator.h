#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/auth/caller.h"
#include "server/auth/token_file.h"

namespace finetuned::auth {

// Calls over TCP: a client certificate, checked by TLS before the call came here, or a token.
class TcpAuthenticator : public Authenticator {
 public:
  // `tokens` null: only certificates count.
  explicit TcpAuthenticator(std::unique_ptr<TokenFile> tokens) : tokens_(std::move(tokens)) {}
  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;
  // Reads the token file again.
  absl::Status Reload() { return tokens_ == nullptr ? absl::OkStatus() : tokens_->Reload(); }

 private:
  const std::unique_ptr<TokenFile> tokens_;
};

}  // namespace finetuned::auth
