#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/base_model.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/precision.h"
#include "engine/train/device.h"
#include "engine/train/run.h"

namespace finetuned::train {

struct BaseModelCache::Impl {
  std::shared_ptr<model::BaseModel> model;  // null: empty
};

// How a job (TrainSpec) or the samples of one (SampleSpec) keep their base: equal options share a cached model.
template <typename Spec>
model::LoadOptions LoadOptionsOf(const Spec& spec, const ComputeTarget& target) {
  return {.device = target.device,
          .dtype = target.dtype,
          .base = plan::ParseBaseFormat(spec.base_quantization),
          .precision = plan::ParsePrecision(spec.matmul_precision),
          .double_quant = spec.double_quant,
          .int8_threshold = spec.int8_threshold,
          .skip_modules = spec.skip_modules,
          .nf4_lm_head = spec.lm_head_quantization == "nf4",
          .embed_on_device = spec.embed_tokens == "device"};
}

// The model of `source`: the cached one when it is the same in every respect, else loaded in its place. cache null:
// loaded. `warm`, if given, tells whether nothing had to be loaded. Errors of LoadBaseModel.
absl::StatusOr<std::shared_ptr<model::BaseModel>> LoadThroughCache(BaseModelCache* cache,
                                                                   const format::ModelSource& source,
                                                                   const std::string& path,
                                                                   const model::LoadOptions& options,
                                                                   bool* warm = nullptr);

}  // namespace finetuned::train
