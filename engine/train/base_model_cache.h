#pragma once

#include <memory>

#include "engine/model/base_model.h"
#include "engine/train/run.h"

namespace finetuned::train {

struct BaseModelCache::Impl {
  std::shared_ptr<model::BaseModel> model;  // null: empty
};

}  // namespace finetuned::train
