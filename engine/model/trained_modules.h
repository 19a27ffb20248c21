// Embedding and head as a pass reads them: the adapter's own copies where it trains them, else the base's.
// Legend: T tokens, D hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/lora/adapter.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/lm_head.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

const FrozenLinear& LinearOf(const LayerWeights& weights, lora::GroupKind kind);

// adapter null: the base's.
const at::Tensor& EmbeddingOf(const BaseModel& base, const lora::Adapter* adapter);
// A stored head without its scratch.
LmHead HeadOf(const BaseModel& base, const lora::Adapter* adapter);

// Adds the gradient of the embedding from that of the residual stream before the first layer; factor: see
// EmbeddingFactor. Takes embed.gradient of the
// workspace. Bits repeat where LibTorch's deterministic algorithms are on.
void AddEmbeddingGradient(const lora::Adapter& adapter, const DeviceBatch& batch, double factor,
                          const at::Tensor& dx_TD, Workspace& workspace);

// Copies the base's weights and biases into the modules and biases that train.
void CopyModules(const BaseModel& base, lora::Adapter& adapter);

}  // namespace finetuned::model
