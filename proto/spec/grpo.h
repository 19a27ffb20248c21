#pragma once

#include "proto/spec/checker.h"

// GrpoSpec's part of ValidateSpec and ResolveSpec.
namespace finetuned::spec {

void CheckGrpo(const v1::GrpoSpec& grpo, Checker& c);

// Fills in the defaults; of a schedule that leaves it open also how many completions make a step: a multiple
// of the group. REQUIRES: the batch sizes are as sent.
void ResolveGrpo(v1::JobSpec* spec);

// INVALID_ARGUMENT when no prompt fits beside the longest completion. REQUIRES: the spec is resolved.
absl::Status CheckCompletionFits(const v1::JobSpec& spec);

}  // namespace finetuned::spec
