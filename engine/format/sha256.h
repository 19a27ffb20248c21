#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace finetuned::format {

// Incremental SHA-256. Not thread safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const uint8_t> bytes);
  void Update(std::string_view bytes);
  // 64 lower-case hex digits. REQUIRES: called once, no Update afterwards.
  std::string FinishHex();

 private:
  evp_md_ctx_st* context_;
};

std::string Sha256Hex(std::span<const uint8_t> bytes);
std::string Sha256Hex(std::string_view bytes);

// Streams the file in 1 MiB pieces. NOT_FOUND, or UNAVAILABLE when reading fails.
absl::StatusOr<std::string> Sha256File(const std::string& path);

}  // namespace finetuned::format
