#pragma once

#include <string_view>

#include "engine/plan/memory_plan.h"

namespace finetuned::plan {

// As in a job: "bf16" "fp8" "int8". Unknown ones: kCompute.
inline MatmulPrecision ParsePrecision(std::string_view name) {
  if (name == "fp8") return MatmulPrecision::kFp8;
  return name == "int8" ? MatmulPrecision::kInt8 : MatmulPrecision::kCompute;
}

}  // namespace finetuned::plan
