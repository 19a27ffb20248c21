#include "engine/plan/cost.h"

#include <gtest/gtest.h>

#include "tests/unit/engine/plan/inputs.h"

namespace finetuned::plan {
namespace {

TEST(TrainFlopsPerToken, RecomputeRepeatsLayersWithoutHeadAndLastProduct) {
  PlanInput in = Llama8B();
  const double kept = TrainFlopsPerToken(in, 0);
  in.activation_checkpointing = true;
  const double layer = 4096.0 * (4096 + 1024 + 1024 + 4096 + 2 * 14336);
  EXPECT_DOUBLE_EQ(TrainFlopsPerToken(in, 0) - kept, 2.0 * 32 * layer);
}

TEST(TrainFlopsPerToken, CountsForwardAndInputGradientOfFrozenWeights) {
  PlanInput in = Llama8B();
  in.target_modules = {"none of them"};
  // All parameters but the embedding and the norms, 2 operations each, twice.
  const double frozen = 8030261248.0 - 128256.0 * 4096 - 65.0 * 4096;
  EXPECT_DOUBLE_EQ(TrainFlopsPerToken(in, 0), 4.0 * frozen);
}

}  // namespace
}  // namespace finetuned::plan
