#include "engine/train/tool_result.h"

#include "absl/strings/match.h"

namespace finetuned::train {

using job::Outcome;

job::RunResult ToolFailure(Outcome outcome, const std::string& reason, absl::string_view message) {
  job::RunResult result;
  result.outcome = outcome;
  result.reason = reason;
  result.message = std::string(message);
  return result;
}

job::RunResult ToolFailureOf(const absl::Status& s, const std::string& reason, const job::RunControl& control) {
  if (absl::IsCancelled(s)) {
    return control.cancel ? ToolFailure(Outcome::kCancelled, "", s.message())
                          : ToolFailure(Outcome::kCheckpointed, "", s.message());
  }
  if (absl::IsResourceExhausted(s)) {
    return ToolFailure(Outcome::kInternal, absl::StrContains(s.message(), "disk") ? "DISK_FULL" : "OUT_OF_DEVICE_MEMORY",
                       s.message());
  }
  if (absl::IsUnavailable(s) || absl::IsDataLoss(s)) return ToolFailure(Outcome::kInternal, "IO_ERROR", s.message());
  if (absl::IsInternal(s)) return ToolFailure(Outcome::kInternal, "INTERNAL", s.message());
  return ToolFailure(Outcome::kBadConfig, reason, s.message());
}

}  // namespace finetuned::train
