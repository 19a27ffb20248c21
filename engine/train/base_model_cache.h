#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/base_model.h"
#include "engine/train/run.h"

namespace finetuned::train {

struct BaseModelCache::Impl {
  std::shared_ptr<model::BaseModel> model;  // null: empty
};

// The model of `source`: the cached one when it is the same in every respect, else loaded in its place. cache null:
// loaded. `warm`, if given, tells whether nothing had to be loaded. Errors of LoadBaseModel.
absl::StatusOr<std::shared_ptr<model::BaseModel>> LoadThroughCache(BaseModelCache* cache,
                                                                   const format::ModelSource& source,
                                                                   const std::string& path,
                                                                   const model::LoadOptions& options,
                                                                   bool* warm = nullptr);

}  // namespace finetuned::train
