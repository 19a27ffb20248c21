#include "engine/data/row_hash.h"

#include "absl/strings/numbers.h"
#include "engine/format/sha256.h"

namespace finetuned::data {

absl::uint128 RowHash(std::string_view canonical_row) {
  absl::uint128 hash = 0;
  const bool parsed = absl::SimpleHexAtoi(format::Sha256Hex(canonical_row).substr(0, 32), &hash);
  return parsed ? hash : 0;  // always parsed: the digits come from Sha256Hex
}

}  // namespace finetuned::data
