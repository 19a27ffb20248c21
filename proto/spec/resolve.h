#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "finetuned/v1/spec.pb.h"

namespace finetuned::spec {

// One wrong field of a spec.
struct Violation {
  std::string path;     // "job.spec.lora.rank"
  std::string message;  // what was found and what is allowed
};

// Every wrong field; empty when the spec is valid. Unset fields are valid where a default exists.
std::vector<Violation> ValidateSpec(const v1::JobSpec& spec);

struct ResolveContext {
  int64_t model_max_length = 0;  // the model's position limit; 0: unknown
  bool has_gpu = false;
};

// The spec with every default filled in, as documented in spec.proto. REQUIRES: ValidateSpec found
// nothing. UNIMPLEMENTED names the first unavailable feature; INVALID_ARGUMENT when max_seq_length is
// above the model's limit.
absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec, const ResolveContext& context);

// Names of the linears of a decoder layer that LoRA can adapt.
const std::vector<std::string>& TargetModules();

}  // namespace finetuned::spec
