#include "engine/format/sha256.h"

#include <openssl/evp.h>

#include <cstdlib>
#include <fstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/format/mapped_file.h"

namespace finetuned::format {
namespace {

// OpenSSL fails here only without memory or without any SHA-256 provider.
void OrAbort(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  OrAbort(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::Update(std::span<const uint8_t> bytes) {
  OrAbort(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
}

void Sha256::Update(std::string_view bytes) {
  OrAbort(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::FinishHex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  OrAbort(EVP_DigestFinal_ex(context_, digest, &size) == 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
}

std::string Sha256Hex(std::span<const uint8_t> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.FinishHex();
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.FinishHex();
}

absl::StatusOr<std::string> Sha256File(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(DisplayName(path), ": cannot be opened"));
  Sha256 hash;
  std::vector<char> buffer(size_t{1} << 20);
  while (file.read(buffer.data(), buffer.size()) || file.gcount() > 0) {
    hash.Update(std::string_view(buffer.data(), file.gcount()));
  }
  if (file.bad()) return absl::UnavailableError(absl::StrCat(DisplayName(path), ": read failed"));
  return hash.FinishHex();
}

}  // namespace finetuned::format
