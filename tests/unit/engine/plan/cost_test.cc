#include "engine/plan/cost.h"

#include <gtest/gtest.h>

#include "engine/plan/auto_settings.h"
#include "engine/plan/shapes.h"
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

// Whole steps measured on an H100 (docs/measurements.md), where the device and not the host was the limit. Recompute
// was in one piece before it was in several.
TEST(MicroBatchSeconds, IsNearWhatWasMeasured) {
  const struct {
    const char* shape;
    int64_t documents, length;
    const char* checkpointing;
    double tokens_per_second;
    bool offload = false;
    MatmulPrecision precision = MatmulPrecision::kCompute;
  } measured[] = {{"llama-3.1-8b", 4, 2048, "off", 16304},
                  {"llama-3.1-8b", 2, 1024, "off", 15491},
                  {"llama-3.1-8b", 4, 2048, "keep:0:0:8192", 12370},
                  {"llama-3.1-8b", 1, 32768, "keep:0:0:32768", 6858},
                  {"llama-2-7b", 2, 1024, "on", 12344},
                  {"llama-2-13b", 1, 512, "on", 4451},
                  {"llama-3.2-1b", 4, 2048, "off", 81026},
                  {"smollm2-135m", 32, 1024, "off", 342910},
                  {"llama-3.1-8b", 4, 2048, "on", 12043},
                  {"llama-3.1-8b", 4, 2048, "on", 12105, true},
                  {"llama-3.1-8b", 4, 2048, "keep:0:32", 12812, true},
                  {"llama-3.1-8b", 4, 2048, "keep:0:5:4096", 12298, true},
                  {"llama-3.1-8b", 1, 32768, "keep:0:32", 7608},
                  {"llama-3.1-8b", 4, 2048, "off", 20873, false, MatmulPrecision::kFp8},
                  {"llama-3.1-8b", 4, 2048, "on", 15192, true, MatmulPrecision::kFp8},
                  {"llama-3.1-8b", 1, 32768, "keep:0:32", 8789, false, MatmulPrecision::kFp8},
                  {"llama-3.1-8b", 1, 32768, "keep:8:24:32768", 9377, false, MatmulPrecision::kFp8},
                  {"llama-3.1-8b", 4, 2048, "off", 14745, false, MatmulPrecision::kInt8}};
  for (const auto& row : measured) {
    PlanInput in;
    in.model = *FindShape(row.shape);
    in.micro_batch_size = row.documents;
    in.max_seq_length = row.length;
    ASSERT_TRUE(ParseCheckpointing(row.checkpointing, &in));
    in.activation_offload = row.offload;
    in.precision = row.precision;
    const auto tokens = static_cast<double>(in.tokens());
    const double seconds =
        MicroBatchSeconds(in, *FindDeviceSpeed("NVIDIA H100 80GB HBM3"), tokens, static_cast<double>(row.length), 1);
    EXPECT_NEAR(tokens / seconds / row.tokens_per_second, 1, 0.12)
        << row.shape << " " << row.length << " " << row.checkpointing;
  }
}

}  // namespace
}  // namespace finetuned::plan
