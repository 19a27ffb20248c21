// Log probabilities of the targets of a batch through the chunked lm_head, and their gradient: what
// preference and policy losses are made of. Legend: T tokens, D hidden, V vocabulary, M targets.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/batch.h"
#include "engine/model/lm_head.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

struct LogProbOptions {
  double temperature = 1;        // logits are divided by it before the softmax; > 0
  bool mean_logits = false;      // also TargetLogProbs::mean_logit_M
  bool log_sum_squares = false;  // also TargetLogProbs::log_sum_squares_M
  at::Tensor head_gradient_VD;   // of the backward: float32; defined: the head trains, its gradient is added
  double logits_softcap = 0;     // of the model, which the decoder sets: logits are capped before the division
};

// Of each target, in the order of DeviceBatch::target_rows_M, with p the softmax at its position.
// Views of the workspace: valid until the same slot is computed again.
struct TargetLogProbs {
  at::Tensor log_probs_M;   // float32, log p[target]
  at::Tensor entropy_M;     // float32, -sum(p log p)
  at::Tensor correct_M;     // uint8, 1 where the (first) largest logit is the target
  at::Tensor mean_logit_M;  // float32, mean over V of the logits, after division; undefined if not
                            // asked for
  at::Tensor log_sum_squares_M;  // float32, log(sum(p^2)); undefined if not asked for
};

// Results of two passes may be alive together.
enum class LogProbSlot { kPolicy, kReference };

// The logits are computed once; log_sum_squares goes over them a second time.
TargetLogProbs LmHeadLogProbs(const at::Tensor& hidden_TD, const LmHead& head,
                              const DeviceBatch& batch, const LogProbOptions& options,
                              int64_t chunk_rows, LogProbSlot slot, Workspace& workspace);

// Writes d_hidden_TD = sum over targets of d_log_probs_M * dlog_prob/dhidden; 0 for rows without
// target. The logits are computed again.
//   d_log_probs_M   float32 [M] on the device: dL/dlog_prob, everything that scales the loss
//   included.
//   d_entropy_M     likewise dL/dentropy; undefined: 0.
void LmHeadLogProbsBackward(const at::Tensor& hidden_TD, const LmHead& head,
                            const DeviceBatch& batch, const LogProbOptions& options,
                            int64_t chunk_rows, const at::Tensor& d_log_probs_M,
                            const at::Tensor& d_entropy_M, Workspace& workspace,
                            at::Tensor& d_hidden_TD);

}  // namespace finetuned::model
