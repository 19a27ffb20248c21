#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "engine/format/model_config.h"
#include "engine/plan/memory_plan.h"

// How lm_head and embedding are kept (quantization.lm_head, quantization.embed_tokens).
namespace finetuned::plan {

inline constexpr char kTiedHead[] =
    "quantization.lm_head nf4 needs a head of its own, this model's head is its embedding; use none";

// Whether a model can be kept so; empty strings stand for the defaults. INVALID_ARGUMENT names field and way out.
absl::Status CheckHeadStorage(const format::ModelConfig& model, const std::string& lm_head,
                              const std::string& embed_tokens);

// Elements of the compute type that a step takes for itself to dequantize an NF4 head, a part at a time. 0: the head is
// not NF4, or the parts take turns with the layers' weights, which are dequantized into `layers` elements that serve
// one after another. The engine uses the same function.
int64_t HeadScratchElements(const PlanInput& input, int64_t layers);

}  // namespace finetuned::plan
