#include "engine/generate/sampling_options.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace finetuned::generate {
namespace {

absl::Status Bad(const char* field, double value, const char* allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": is ", value, ", must be ", allowed));
}

}  // namespace

absl::Status ValidateSampling(const SamplingOptions& o) {
  const auto within = [](double x, double low, double high) { return std::isfinite(x) && x >= low && x <= high; };
  if (o.max_new_tokens <= 0) {
    return Bad("max_new_tokens", static_cast<double>(o.max_new_tokens), "above 0");
  }
  if (!within(o.temperature, 0, 100) || (o.temperature > 0 && o.temperature < 1e-3)) {
    return Bad("temperature", o.temperature, "0 (greedy) or between 0.001 and 100");
  }
  if (o.top_k < 0) return Bad("top_k", static_cast<double>(o.top_k), "0 (all) or above");
  if (!within(o.top_p, 0, 1) || o.top_p == 0) return Bad("top_p", o.top_p, "above 0 and at most 1");
  if (!within(o.min_p, 0, 1)) return Bad("min_p", o.min_p, "between 0 and 1");
  if (!within(o.repetition_penalty, 0.01, 100)) {
    return Bad("repetition_penalty", o.repetition_penalty, "between 0.01 and 100");
  }
  return absl::OkStatus();
}

}  // namespace finetuned::generate
