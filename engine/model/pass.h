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

// Takes the place of attention inside the packed documents: generation, whose keys lie in a cache.
class CacheAttention {
 public:
  virtual ~CacheAttention() = default;
  // q and k are rotated; views of the fused buffer. Writes out_THE; lse_HT is free to be used.
  virtual void Forward(int64_t layer, const at::Tensor& q_THE, const at::Tensor& k_TKE,
                       const at::Tensor& v_TKE, at::Tensor& out_THE, at::Tensor& lse_HT) = 0;
};

struct StandingWeights;  // projection.h

struct PassContext {
  const BaseModel* base = nullptr;
  const lora::Adapter* adapter = nullptr;  // null: the base alone
  const DeviceBatch* batch = nullptr;
  Workspace* workspace = nullptr;
  at::Tensor scratch;        // for dequantized weights: ScratchElements() of the compute type
  int64_t piece_rows = 0;    // rows at a time where a layer's activations are not kept, a multiple of 4
  bool recomputes = false;   // some layers do not keep theirs
  int64_t number = 0;        // tells passes apart: adapters change between them
  StandingWeights* standing = nullptr;  // dequantized weights of the first layers; scratch holds those in use of others
  bool long_rope = false;               // positions take LongRoPE's table of long texts
  lora::DropoutKey dropout;
  bool deterministic = false;
  // Generation; forward only.
  CacheAttention* attention = nullptr;  // null: the batch's documents
  bool few_rows = false;                // NF4 weights are multiplied as they are stored unless they stand; without dropout
};

}  // namespace finetuned::model
