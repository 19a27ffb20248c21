#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "finetuned/internal/v1/config.pb.h"

namespace finetuned::config {

using Config = ::finetuned::internal::v1::Config;

// Reads and checks a YAML file, then fills in every default. Errors name file, line, key and, for a
// misspelt key, the nearest known one.
absl::StatusOr<Config> LoadConfig(const std::string& path);

// The same from text; `name` stands in errors.
absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& name);

// Defaults alone.
Config DefaultConfig();

// Paths of the daemon's own files below state_dir are in server/store/layout.h.

}  // namespace finetuned::config
