#include "server/auth/tcp_authenticator.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace finetuned::auth {
namespace {

constexpr size_t kMinTokenLength = 32;

std::array<unsigned char, 32> Digest(absl::string_view text) {
  std::array<unsigned char, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

}  // namespace

BearerToken::BearerToken(std::string_view token)
    : digest_(Digest(absl::string_view(token.data(), token.size()))) {}

absl::StatusOr<BearerToken> BearerToken::FromFile(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tcp.token_file ", path, " cannot be read"));
  }
  if ((info.st_mode & 0077) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tcp.token_file ", path, " may be read by other users; set its mode to 0600"));
  }
  std::ifstream in(path);
  std::string token;
  std::getline(in, token);
  token = std::string(absl::StripAsciiWhitespace(token));
  if (token.size() < kMinTokenLength) {
    return absl::InvalidArgumentError(absl::StrCat("tcp.token_file ", path, " holds ", token.size(),
                                                   " characters; at least ", kMinTokenLength,
                                                   " are needed, e.g. from `openssl rand -hex 32`"));
  }
  return BearerToken(token);
}

bool BearerToken::Matches(std::string_view header) const {
  absl::string_view token(header.data(), header.size());
  if (!absl::ConsumePrefix(&token, "Bearer ") && !absl::ConsumePrefix(&token, "bearer ")) return false;
  return CRYPTO_memcmp(Digest(token).data(), digest_.data(), digest_.size()) == 0;
}

absl::StatusOr<Caller> TcpAuthenticator::Identify(const grpc::ServerContextBase& context) const {
  const auto auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const auto names = auth->FindPropertyValues("x509_common_name");
    if (!names.empty()) return Caller{absl::StrCat("tls:", std::string(names[0].data(), names[0].size()))};
    return Caller{"tls"};
  }
  if (token_.has_value()) {
    const auto range = context.client_metadata().equal_range("authorization");
    for (auto it = range.first; it != range.second; ++it) {
      if (token_->Matches(std::string_view(it->second.data(), it->second.size()))) return Caller{"token"};
    }
    return absl::UnauthenticatedError("a valid \"authorization: Bearer TOKEN\" is needed");
  }
  return absl::UnauthenticatedError("a client certificate is needed");
}

}  // namespace finetuned::auth
