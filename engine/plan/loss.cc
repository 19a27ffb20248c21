#include <algorithm>

#include "engine/plan/collector.h"

namespace finetuned::plan {

int64_t LogitsChunkRows(int64_t vocab_size) {
  constexpr int64_t kLogitsBytes = 256ll << 20;
  const int64_t rows = kLogitsBytes / (4 * std::max<int64_t>(1, vocab_size));
  return std::clamp<int64_t>(rows / 128 * 128, 128, 1024);
}

namespace {

// What the loss is made of, target by target: loss and entropy, and whether it was the likeliest token.
void AddPerTarget(const PlanInput& in, Collector& c) {
  const int64_t targets = in.targets();
  if (in.method == Method::kSft || in.method == Method::kEvaluate) {
    c.Add("logits", "loss.per_target", targets * 2 * 4);
    c.Add("logits", "loss.correct", targets);
    return;
  }
  // Of policy and reference (engine/model/lm_head_log_probs.h), and the gradient: the loss's, and as the head reads it.
  const int64_t slots = 2;
  c.Add("logits", "log_probs.per_target", slots * targets * 5 * 4, slots);
  c.Add("logits", "log_probs.correct", slots * targets, slots);
  c.Add("logits", "log_probs.gradient", slots * targets * 4, slots);
  // The policy loss works on [completions, longest] in float32, term by term (engine/grpo/loss.cc).
  constexpr int64_t kPolicyLossTerms = 40;
  if (in.method == Method::kGrpo) c.Add("logits", "grpo.loss", kPolicyLossTerms * targets * 4, kPolicyLossTerms);
}

}  // namespace

void AddLoss(const PlanInput& in, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t rows = std::min(LogitsChunkRows(m.vocab_size), in.targets());
  c.Add("logits", "logits_chunk", rows * m.vocab_size * 4);
  c.Add("logits", "loss.hidden", rows * m.hidden_size * in.compute_bytes);
  if (in.nf4_lm_head && in.compute_bytes == 2) c.Add("logits", "loss.hidden_sum", rows * m.hidden_size * 4);
  AddPerTarget(in, c);
}

}  // namespace finetuned::plan
