// lm_head and cross entropy in chunks: logits of a few hundred rows exist at a time, and only of rows
// that have a target. Legend: T tokens, D hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/batch.h"
#include "engine/model/lm_head.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct LossOptions {
  int64_t chunk_rows = 1024;
  double label_smoothing = 0;
  // float32 [1] on the device: multiplies the gradient; 1 / targets of the accumulation window.
  at::Tensor grad_scale;
  at::Tensor head_gradient_VD;  // float32; defined: the head trains, its gradient is added
  double logits_softcap = 0;  // of the model: see kernels::CrossEntropyChunk
};

// Sums over the targets of a batch, on the device: float64 [3] = loss, entropy, correct predictions.
inline constexpr int64_t kLossSums = 3;

// Adds to sums. d_hidden_TD: defined, it is written with the scaled gradient of the loss with respect
// to hidden_TD (0 for rows without target); undefined, no gradient is formed.
// Logits and their softmax are float32; a 16-bit weight multiplies 16-bit hidden rows.
void LmHeadLoss(const at::Tensor& hidden_TD, const LmHead& head, const DeviceBatch& batch,
                const LossOptions& options, Workspace& workspace, at::Tensor& d_hidden_TD,
                at::Tensor& sums);

}  // namespace finetuned::model
