#include "server/auth/tcp_authenticator.h"

#include "absl/strings/str_cat.h"

namespace finetuned::auth {

absl::StatusOr<Caller> TcpAuthenticator::Identify(const grpc::ServerContextBase& context) const {
  const auto auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const auto names = auth->FindPropertyValues("x509_common_name");
    if (!names.empty()) return Caller{absl::StrCat("tls:", std::string(names[0].data(), names[0].size()))};
    return Caller{"tls:"};
  }
  if (tokens_ == nullptr) return absl::UnauthenticatedError("a client certificate is needed");
  const auto range = context.client_metadata().equal_range("authorization");
  for (auto it = range.first; it != range.second; ++it) {
    const auto principal = tokens_->Find(std::string_view(it->second.data(), it->second.size()));
    if (principal.has_value()) return Caller{*principal};
  }
  return absl::UnauthenticatedError("a valid \"authorization: Bearer TOKEN\" is needed");
}

}  // namespace finetuned::auth
