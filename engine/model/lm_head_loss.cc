#include "engine/model/lm_head_loss.h"

#include <ATen/ATen.h>

#include "engine/model/lm_head_chunks.h"
#include "kernels/cross_entropy.h"

namespace finetuned::model {

void LmHeadLoss(const at::Tensor& hidden_TD, const LmHead& head, const DeviceBatch& batch,
                const LossOptions& options, Workspace& workspace, at::Tensor& d_hidden_TD,
                at::Tensor& sums) {
  const bool train = d_hidden_TD.defined();
  const auto f32 = at::TensorOptions().device(hidden_TD.device()).dtype(at::kFloat);
  at::Tensor loss_M = workspace.Take("loss.per_target", 0, {2, batch.targets}, at::kFloat);
  at::Tensor correct_M = workspace.Take("loss.correct", 0, {batch.targets}, at::kByte);
  const at::Tensor scale = train ? options.grad_scale : at::ones({1}, f32);
  if (train) d_hidden_TD.zero_();

  ForEachHeadChunk(
      hidden_TD, head, batch, options.chunk_rows, workspace, [&](HeadChunk& chunk) {
        at::Tensor loss = chunk.Of(loss_M[0]);
        kernels::CrossEntropyChunk(chunk.logits_CV, chunk.labels_C, scale, options.label_smoothing,
                                   train, loss, chunk.Of(loss_M[1]), chunk.Of(correct_M),
                                   /*narrow_grad=*/train && NarrowGradientOf(chunk), /*d_entropy_C=*/{}, options.logits_softcap);
        if (train && options.head_gradient_VD.defined()) AddHeadGradient(chunk, options.head_gradient_VD);
        if (train) WriteHiddenGradient(chunk, head, batch, workspace, d_hidden_TD);
      });
  sums.narrow(0, 0, 2).add_(at::sum(loss_M, {1}, /*keepdim=*/false, at::kDouble));
  sums.narrow(0, 2, 1).add_(at::sum(correct_M, at::kDouble));
}

}  // namespace finetuned::model
