#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/auth/caller.h"

namespace finetuned::auth {

// A bearer token, kept as its SHA-256 and compared in constant time.
class BearerToken {
 public:
  // The file's first line. INVALID_ARGUMENT: shorter than 32 characters, or the file may be read by
  // others than its owner (mode).
  static absl::StatusOr<BearerToken> FromFile(const std::string& path);
  explicit BearerToken(std::string_view token);
  // `header` is the value of the authorization header: "Bearer TOKEN".
  bool Matches(std::string_view header) const;

 private:
  std::array<unsigned char, 32> digest_;
};

// Calls over TCP: a client certificate, checked by TLS before the call came here, or a token.
class TcpAuthenticator : public Authenticator {
 public:
  // `token` empty: only certificates count.
  explicit TcpAuthenticator(std::optional<BearerToken> token) : token_(std::move(token)) {}
  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;

 private:
  const std::optional<BearerToken> token_;
};

}  // namespace finetuned::auth
