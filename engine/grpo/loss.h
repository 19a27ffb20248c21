// Policy loss of one micro-batch of completions and its gradient with respect to their log
// probabilities. Legend: M targets (completion tokens that train), B completions, L longest
// completion.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/grpo/loss_options.h"

namespace finetuned::grpo {

// How the targets of a packed batch form completions, on the device. Made once per rollout.
struct LossBatch {
  int64_t targets = 0, completions = 0, longest = 0;
  at::Tensor pad_M1;         // int64 [B * L]: index into the targets, M for padding
  at::Tensor flat_M;         // int64 [M]: where each target stands in [B, L]
  at::Tensor lengths_B1;     // float32 [B, 1]
  at::Tensor advantages_B1;  // float32 [B, 1]
};

// lengths: targets of each completion in the order of the packed batch; 0: it is left out of the
// loss but counts as a row. Copies to the device without waiting for it.
LossBatch MakeLossBatch(std::span<const int64_t> lengths, std::span<const double> advantages,
                        at::Device device);

// float32 [M] each, on the device.
struct PolicyLogProbs {
  at::Tensor policy_M;     // what is trained
  at::Tensor old_M;        // when sampled; undefined: equal to policy_M, all ratios are 1
  at::Tensor reference_M;  // of the frozen model; may be undefined when beta is 0
  at::Tensor entropy_M;
};

// Divisors that go beyond the micro-batch.
struct LossWindow {
  int64_t accumulation = 1;  // micro-batches in the optimizer step
  double tokens = 1;         // targets per optimizer step: divides kDapo, kCispo and kVespo
};

// Means over the micro-batch, in this order; those that a loss type does not have are 0.
inline constexpr const char* kMetricNames[] = {"entropy",
                                               "kl",
                                               "clip_ratio/low_mean",
                                               "clip_ratio/low_min",
                                               "clip_ratio/high_mean",
                                               "clip_ratio/high_max",
                                               "clip_ratio/region_mean",
                                               "cispo_clip_ratio",
                                               "vespo/phi_seq_mean",
                                               "policy_loss"};
inline constexpr int64_t kMetrics = 10;
// Those of kMetricNames that a loss has.
std::vector<bool> MetricsOf(const LossOptions& options);

struct LossResult {
  at::Tensor loss;     // float32 [1]: this micro-batch's part of the step's loss
  at::Tensor d_M;      // float32 [M]: dloss / dpolicy_M
  at::Tensor d_entropy_M;  // float32 [M]: dloss / dentropy_M; undefined without entropy_coef
  at::Tensor metrics;  // float32 [kMetrics]
};

// Only work on the device; waits for nothing. REQUIRES: batch.targets > 0.
LossResult PolicyLoss(const LossBatch& batch, const PolicyLogProbs& log_probs,
                      const LossWindow& window, const LossOptions& options);

}  // namespace finetuned::grpo
