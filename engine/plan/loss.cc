#include <algorithm>

#include "engine/plan/collector.h"

namespace finetuned::plan {

int64_t LogitsChunkRows(int64_t vocab_size) {
  constexpr int64_t kLogitsBytes = 256ll << 20;
  const int64_t rows = kLogitsBytes / (4 * std::max<int64_t>(1, vocab_size));
  return std::clamp<int64_t>(rows / 128 * 128, 128, 1024);
}

void AddLoss(const PlanInput& in, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t rows = std::min(LogitsChunkRows(m.vocab_size), in.tokens());
  c.Add("logits", "logits_chunk", rows * m.vocab_size * 4);
  c.Add("logits", "loss.hidden", rows * m.hidden_size * in.compute_bytes);
  // Loss and entropy of every target, and whether it was the likeliest token.
  c.Add("logits", "loss.per_target", in.tokens() * 2 * 4);
  c.Add("logits", "loss.correct", in.tokens());
}

}  // namespace finetuned::plan
