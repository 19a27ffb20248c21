#include "engine/data/row_hash.h"

#include <openssl/evp.h>

#include <cstdint>
#include <cstring>

namespace finetuned::data {

absl::uint128 RowHash(std::string_view canonical_row) {
  unsigned char digest[EVP_MAX_MD_SIZE] = {};
  EVP_Digest(canonical_row.data(), canonical_row.size(), digest, nullptr, EVP_sha256(), nullptr);
  uint64_t high = 0, low = 0;
  std::memcpy(&high, digest, sizeof(high));
  std::memcpy(&low, digest + sizeof(high), sizeof(low));
  return absl::MakeUint128(high, low);
}

}  // namespace finetuned::data
