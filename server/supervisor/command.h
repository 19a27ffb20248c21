#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace finetuned::supervisor {

struct CommandResult {
  int code = 0;        // exit code; 128 + signal when killed
  std::string output;  // standard output
  std::string errors;  // standard error
};

// Runs a program without a shell and waits for its end. UNAVAILABLE when it cannot be
// started; DEADLINE_EXCEEDED, and it is killed, after `limit`. At most 1 MiB of output is kept.
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& arguments, absl::Duration limit);

}  // namespace finetuned::supervisor
