#include "engine/model/lm_head_loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/cross_entropy.h"

namespace finetuned::model {
namespace {

// float32 logits, also of 16-bit operands.
void Logits(const at::Tensor& rows_CD, const at::Tensor& weight_VD, at::Tensor& logits_CV) {
  if (rows_CD.scalar_type() == at::kFloat) {
    at::mm_out(logits_CV, rows_CD, weight_VD.t());
  } else {
    at::mm_out(logits_CV, rows_CD, weight_VD.t(), at::kFloat);
  }
}

}  // namespace

void LmHeadLoss(const at::Tensor& hidden_TD, const at::Tensor& lm_head_VD, const DeviceBatch& batch,
                const LossOptions& options, Workspace& workspace, at::Tensor& d_hidden_TD,
                at::Tensor& sums) {
  const bool train = d_hidden_TD.defined();
  const int64_t d = hidden_TD.size(1), v = lm_head_VD.size(0);
  const int64_t chunk = std::min(options.chunk_rows, std::max<int64_t>(1, batch.targets));
  const at::ScalarType dtype = hidden_TD.scalar_type();
  const auto f32 = at::TensorOptions().device(hidden_TD.device()).dtype(at::kFloat);
  at::Tensor loss_M = workspace.Take("loss.per_target", 0, {2, batch.targets}, at::kFloat);
  at::Tensor correct_M = workspace.Take("loss.correct", 0, {batch.targets}, at::kByte);
  const at::Tensor scale = train ? options.grad_scale : at::ones({1}, f32);
  if (train) d_hidden_TD.zero_();

  for (int64_t first = 0; first < batch.targets; first += chunk) {
    const int64_t c = std::min(chunk, batch.targets - first);
    const at::Tensor rows = batch.target_rows_M.narrow(0, first, c);
    at::Tensor hidden_CD = workspace.Take("loss.hidden", 0, {c, d}, dtype);
    at::index_select_out(hidden_CD, hidden_TD, 0, rows);
    at::Tensor logits_CV = workspace.Take("logits_chunk", 0, {c, v}, at::kFloat);
    Logits(hidden_CD, lm_head_VD, logits_CV);
    at::Tensor loss = loss_M[0].narrow(0, first, c);
    kernels::CrossEntropyChunk(logits_CV, batch.target_labels_M.narrow(0, first, c), scale,
                               options.label_smoothing, train, loss,
                               loss_M[1].narrow(0, first, c), correct_M.narrow(0, first, c),
                               /*narrow_grad=*/train && dtype != at::kFloat);
    if (!train) continue;
    const at::Tensor dlogits_CV =
        dtype == at::kFloat ? logits_CV : kernels::NarrowGradient(logits_CV);
    at::Tensor& d_rows_CD = hidden_CD;  // the rows themselves are needed no more
    at::mm_out(d_rows_CD, dlogits_CV, lm_head_VD);
    d_hidden_TD.index_copy_(0, rows.to(at::kLong), d_rows_CD);
  }
  sums.narrow(0, 0, 2).add_(at::sum(loss_M, {1}, /*keepdim=*/false, at::kDouble));
  sums.narrow(0, 2, 1).add_(at::sum(correct_M, at::kDouble));
}

}  // namespace finetuned::model
