// The lm_head over the targets of a batch, some hundred rows at a time: what loss and log
// probabilities share. Legend: T tokens, D hidden, V vocabulary, C targets of a chunk.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "engine/model/batch.h"
#include "engine/model/lm_head.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct HeadChunk {
  int64_t first = 0, rows = 0;  // targets [first, first + rows) of the batch
  at::Tensor labels_C;
  at::Tensor hidden_CD;  // the rows of these targets
  at::Tensor logits_CV;  // float32, also of 16-bit operands

  at::Tensor Of(const at::Tensor& x_M) const { return x_M.narrow(0, first, rows); }
};

// Calls visit for each chunk of at most chunk_rows targets. The tensors of a chunk lie in the
// workspace (loss.hidden, logits_chunk) and are overwritten by the next.
void ForEachHeadChunk(const at::Tensor& hidden_TD, const LmHead& head,
                      const DeviceBatch& batch, int64_t chunk_rows, Workspace& workspace,
                      const std::function<void(HeadChunk&)>& visit);

// Whether CrossEntropyChunk should round the gradient of these logits: products with a 16-bit
// lm_head need it so.
bool NarrowGradientOf(const HeadChunk& chunk);

// Adds the gradient of a head that trains, float32 [V, D]. chunk as in WriteHiddenGradient, before it.
void AddHeadGradient(const HeadChunk& chunk, at::Tensor gradient_VD);

// Writes the gradient of the chunk's hidden rows to their places in d_hidden_TD. chunk.logits_CV:
// the gradient of the logits, narrow as NarrowGradientOf says. Overwrites chunk.hidden_CD.
void WriteHiddenGradient(HeadChunk& chunk, const LmHead& head, const DeviceBatch& batch,
                         Workspace& workspace, at::Tensor& d_hidden_TD);

}  // namespace finetuned::model
