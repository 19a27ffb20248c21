#include "engine/model/lm_head_log_probs.h"

#include <ATen/ATen.h>

#include "engine/model/lm_head_chunks.h"
#include "kernels/cross_entropy.h"

namespace finetuned::model {
namespace {

enum Row { kLogProb, kEntropy, kMeanLogit, kLogSumSquares, kScratch, kRows };

at::Tensor PerTarget(const DeviceBatch& batch, LogProbSlot slot, Workspace& workspace) {
  return workspace.Take("log_probs.per_target", static_cast<int64_t>(slot), {kRows, batch.targets},
                        at::kFloat);
}

}  // namespace

TargetLogProbs LmHeadLogProbs(const at::Tensor& hidden_TD, const LmHead& head,
                              const DeviceBatch& batch, const LogProbOptions& options,
                              int64_t chunk_rows, LogProbSlot slot, Workspace& workspace) {
  const at::Tensor values = PerTarget(batch, slot, workspace);
  TargetLogProbs out;
  out.log_probs_M = values[kLogProb];
  out.entropy_M = values[kEntropy];
  out.correct_M =
      workspace.Take("log_probs.correct", static_cast<int64_t>(slot), {batch.targets}, at::kByte);
  if (options.mean_logits) out.mean_logit_M = values[kMeanLogit];
  if (options.log_sum_squares) out.log_sum_squares_M = values[kLogSumSquares];
  const at::Tensor unused_scale = at::ones({1}, values.options());

  ForEachHeadChunk(hidden_TD, head, batch, chunk_rows, workspace, [&](HeadChunk& chunk) {
    at::Tensor& logits_CV = chunk.logits_CV;
    CapLogits(options.logits_softcap, logits_CV);
    if (options.temperature != 1) logits_CV.mul_(1 / options.temperature);
    if (options.mean_logits) {
      at::Tensor mean = chunk.Of(out.mean_logit_M);
      at::mean_out(mean, logits_CV, {1});
    }
    at::Tensor loss = chunk.Of(out.log_probs_M);  // -log p for now
    kernels::CrossEntropyChunk(logits_CV, chunk.labels_C, unused_scale, /*label_smoothing=*/0,
                               /*write_grad=*/false, loss, chunk.Of(out.entropy_M),
                               chunk.Of(out.correct_M));
    if (options.log_sum_squares) {
      // With L(x) = logsumexp(x) - x[target]: log(sum(p^2)) = logsumexp(2x) - 2 logsumexp(x) =
      // L(2x) - 2 L(x).
      at::Tensor doubled = chunk.Of(values[kScratch]), squares = chunk.Of(out.log_sum_squares_M);
      logits_CV.mul_(2);
      kernels::CrossEntropyChunk(logits_CV, chunk.labels_C, unused_scale, /*label_smoothing=*/0,
                                 /*write_grad=*/false, doubled);
      at::sub_out(squares, doubled, loss, 2);
    }
  });
  out.log_probs_M.neg_();
  return out;
}

void LmHeadLogProbsBackward(const at::Tensor& hidden_TD, const LmHead& head,
                            const DeviceBatch& batch, const LogProbOptions& options,
                            int64_t chunk_rows, const at::Tensor& d_log_probs_M,
                            const at::Tensor& d_entropy_M, Workspace& workspace,
                            at::Tensor& d_hidden_TD) {
  // The cross entropy is -log p, of logits divided by the temperature; c tanh(x / c) / t = (c / t) tanh((x / t) / (c / t)).
  const at::Tensor scale_M = at::mul(d_log_probs_M, -1 / options.temperature);
  const at::Tensor values = PerTarget(batch, LogProbSlot::kPolicy, workspace), loss_M = values[kScratch];
  at::Tensor d_entropy;
  if (d_entropy_M.defined()) d_entropy = d_entropy_M / options.temperature;
  d_hidden_TD.zero_();
  ForEachHeadChunk(hidden_TD, head, batch, chunk_rows, workspace, [&](HeadChunk& chunk) {
    if (options.temperature != 1) chunk.logits_CV.mul_(1 / options.temperature);
    at::Tensor loss = chunk.Of(loss_M);
    const bool entropy = d_entropy.defined();
    kernels::CrossEntropyChunk(chunk.logits_CV, chunk.labels_C, chunk.Of(scale_M),
                               /*label_smoothing=*/0,
                               /*write_grad=*/true, loss, entropy ? chunk.Of(values[kEntropy]) : at::Tensor(), {},
                               NarrowGradientOf(chunk), entropy ? chunk.Of(d_entropy) : at::Tensor(),
                               options.logits_softcap / options.temperature);
    if (options.head_gradient_VD.defined()) AddHeadGradient(chunk, options.head_gradient_VD);
    WriteHiddenGradient(chunk, head, batch, workspace, d_hidden_TD);
  });
}

}  // namespace finetuned::model
