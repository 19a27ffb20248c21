#include "engine/model/lm_head_chunks.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cross_entropy.h"

namespace finetuned::model {

void ForEachHeadChunk(const at::Tensor& hidden_TD, const LmHead& head,
                      const DeviceBatch& batch, int64_t chunk_rows, Workspace& workspace,
                      const std::function<void(HeadChunk&)>& visit) {
  const int64_t d = hidden_TD.size(1), v = head.vocab();
  const int64_t step = std::min(chunk_rows, std::max<int64_t>(1, batch.targets));
  for (int64_t first = 0; first < batch.targets; first += step) {
    HeadChunk chunk;
    chunk.first = first;
    chunk.rows = std::min(step, batch.targets - first);
    chunk.labels_C = chunk.Of(batch.target_labels_M);
    chunk.hidden_CD = workspace.Take("loss.hidden", 0, {chunk.rows, d}, hidden_TD.scalar_type());
    at::index_select_out(chunk.hidden_CD, hidden_TD, 0, chunk.Of(batch.target_rows_M));
    chunk.logits_CV = workspace.Take("logits_chunk", 0, {chunk.rows, v}, at::kFloat);
    HeadLogits(head, chunk.hidden_CD, chunk.logits_CV);
    visit(chunk);
  }
}

bool NarrowGradientOf(const HeadChunk& chunk) {
  return chunk.hidden_CD.scalar_type() != at::kFloat;
}

void AddHeadGradient(const HeadChunk& chunk, at::Tensor gradient_VD) {
  if (NarrowGradientOf(chunk)) {
    at::addmm_out(gradient_VD, gradient_VD, kernels::NarrowGradient(chunk.logits_CV).t(), chunk.hidden_CD, at::kFloat);
  } else {
    gradient_VD.addmm_(chunk.logits_CV.t(), chunk.hidden_CD);
  }
}

void WriteHiddenGradient(HeadChunk& chunk, const LmHead& head, const DeviceBatch& batch,
                         Workspace& workspace, at::Tensor& d_hidden_TD) {
  const at::Tensor dlogits_CV =
      NarrowGradientOf(chunk) ? kernels::NarrowGradient(chunk.logits_CV) : chunk.logits_CV;
  at::Tensor& d_rows_CD = chunk.hidden_CD;  // the rows themselves are needed no more
  HeadGradient(head, dlogits_CV, workspace, d_rows_CD);
  d_hidden_TD.index_copy_(0, chunk.Of(batch.target_rows_M).to(at::kLong), d_rows_CD);
}

}  // namespace finetuned::model
