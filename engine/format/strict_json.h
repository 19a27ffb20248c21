#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetuned::format {

struct JsonLimits {
  int max_depth = 64;           // nesting of objects and arrays
  size_t max_values = 5000000;  // values of all kinds, keys not counted
};

// Parses JSON from a file that is not trusted: valid UTF-8, no duplicate keys, bounded. `name` is
// the file in messages. INVALID_ARGUMENT with the byte or key at fault.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text, absl::string_view name,
                                               const JsonLimits& limits = {});

}  // namespace finetuned::format
