// The lm_head in products: dense, or frozen and stored as NF4 and dequantized some rows of the vocabulary at a time.
// Legend: C rows, D hidden, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/frozen_linear.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

// One of the two.
struct LmHead {
  at::Tensor dense_VD;                   // compute type
  const FrozenLinear* stored = nullptr;  // NF4, without bias
  // For a stored head: memory of the compute type, at least plan::HeadScratchElements; overwritten. The more it holds,
  // the larger the products.
  at::Tensor scratch;

  int64_t vocab() const { return stored != nullptr ? stored->out() : dense_VD.size(0); }
};

// Written: float32 logits, also of 16-bit rows.
void HeadLogits(const LmHead& head, const at::Tensor& rows_CD, at::Tensor& logits_CV);

// In place: cap * tanh(logits / cap). 0: nothing.
void CapLogits(double cap, at::Tensor& logits_CV);

// Written: d_rows = dlogits W. Over parts of the vocabulary the sum is float32, in the workspace's loss.hidden_sum.
void HeadGradient(const LmHead& head, const at::Tensor& dlogits_CV, Workspace& workspace, at::Tensor& d_rows_CD);

}  // namespace finetuned::model
