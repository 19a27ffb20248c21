#include "engine/plan/head.h"

#include <algorithm>

namespace finetuned::plan {

absl::Status CheckHeadStorage(const format::ModelConfig& model, const std::string& lm_head,
                              const std::string& embed_tokens) {
  if (!model.tie_word_embeddings) return absl::OkStatus();
  if (lm_head == "nf4") return absl::InvalidArgumentError(kTiedHead);
  if (embed_tokens == "host") {
    return absl::InvalidArgumentError(
        "quantization.embed_tokens host needs a head of its own, this model's head is its embedding, which a step "
        "reads in full; leave it out");
  }
  return absl::OkStatus();
}

int64_t HeadScratchElements(const PlanInput& in, int64_t layers) {
  if (!in.nf4_lm_head) return 0;
  // A group of rows that begins with scales of its own has at most 64 x 256 rows; products want some thousand.
  constexpr int64_t kLeastRows = 16384;
  const int64_t least = std::min(in.model.vocab_size, kLeastRows) * in.model.hidden_size;
  return layers >= least ? 0 : least;
}

}  // namespace finetuned::plan
