// What the layers of one pass over a batch share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/lora/adapter.h"
#include "engine/lora/apply.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct PassContext {
  const BaseModel* base = nullptr;
  const lora::Adapter* adapter = nullptr;  // null: the base alone
  const DeviceBatch* batch = nullptr;
  Workspace* workspace = nullptr;
  at::Tensor scratch;        // for dequantized weights: ScratchElements() of the compute type
  int64_t piece_rows = 0;    // rows at a time where a layer's activations are not kept, a multiple of 4
  bool recomputes = false;   // some layers do not keep theirs
  lora::DropoutKey dropout;
  bool deterministic = false;
};

}  // namespace finetuned::model
