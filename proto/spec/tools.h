#pragma once

#include <string>
#include <vector>

#include "finetuned/v1/spec.pb.h"
#include "proto/spec/checker.h"

namespace finetuned::spec {

// "sft", "dpo", "kto", "grpo", "export", "evaluate"; empty when none is set.
std::string MethodName(const v1::JobSpec& spec);
// All of them.
const std::vector<std::string>& MethodNames();

// Jobs that train nothing: exports and evaluations. Their dataset is optional, and its rows are those of "sft".
inline bool IsTool(const v1::JobSpec& spec) { return spec.has_export_() || spec.has_evaluate(); }

// Fields of export and evaluate.
void CheckTool(const v1::JobSpec& spec, Checker& c);

// Their defaults; REQUIRES IsTool.
void ResolveTool(v1::JobSpec* spec);

}  // namespace finetuned::spec
