#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace finetuned::api {

// What a WatchJob resume token stands for. Opaque bytes to clients:
// version (1) | epoch (4) | sequence (8) | job uid | crc32c of all before (4), little endian.
struct WatchToken {
  uint32_t epoch = 1;     // of the event log; a log that was rebuilt gets another
  int64_t sequence = 0;   // of the last event seen
  std::string job_uid;
};

std::string EncodeWatchToken(const WatchToken& token);
// INVALID_ARGUMENT: not a token, or damaged.
absl::StatusOr<WatchToken> DecodeWatchToken(const std::string& bytes);

}  // namespace finetuned::api
