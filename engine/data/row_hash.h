#pragma once

#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/numeric/int128.h"

namespace finetuned::data {

// The first 128 bits of SHA-256: rows with the same hash are taken as the same row, also when
// someone tries to make two rows collide.
absl::uint128 RowHash(std::string_view canonical_row);

// 16 bytes a row (about 20 with the free slots): what duplicate detection costs in memory.
using RowHashSet = absl::flat_hash_set<absl::uint128>;

}  // namespace finetuned::data
