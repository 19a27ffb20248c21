// The engine takes exactly the buffers that the plan lists.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <map>

#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::model {
namespace {

struct Variant {
  bool nf4, checkpointing, tied;
  int64_t rank;
  std::vector<std::string> targets;
  double dropout = 0;
};

class PlannedBuffers : public testing::TestWithParam<Variant> {};

TEST_P(PlannedBuffers, AreThoseTheEngineTakes) {
  const Variant v = GetParam();
  c10::InferenceMode no_autograd;
  format::ModelConfig config = bench::Shape("smollm2-135m");
  config.num_hidden_layers = 3;
  config.vocab_size = 1000;
  config.tie_word_embeddings = v.tied;
  const auto base = bench::RandomModel(config, {at::kCPU, at::kFloat, v.nf4});
  lora::Adapter adapter(config, {v.rank, 8, v.dropout, false, *lora::ParseTargets(v.targets)}, at::kCPU, at::kFloat);
  Decoder decoder(*base, adapter, {.recompute_activations = v.checkpointing});
  const data::PackedBatch batch = bench::RandomBatch(config, 2, 24);
  at::Tensor sums = at::zeros({kLossSums}, at::kDouble);
  decoder.ForwardBackward(Upload(batch, at::kCPU), at::ones({1}), 1, 0, sums);

  plan::PlanInput input = PlanInputOf(*base);
  input.lora_rank = v.rank;
  input.lora_dropout = v.dropout > 0;
  input.target_modules = v.targets;
  input.micro_batch_size = 2;
  input.max_seq_length = 24;
  input.activation_checkpointing = v.checkpointing;
  std::map<std::string, int64_t> planned;
  int64_t weights = 0;
  for (const plan::Buffer& b : plan::PlanMemory(input).buffers) {
    planned[b.name] += b.bytes;
    if (b.component == "weights") weights += b.bytes;
  }
  // The plan cannot know how many tokens are targets, so it counts all: two documents end without one.
  const std::map<std::string, int64_t> per_target = {{"loss.per_target", 8}, {"loss.correct", 1},
                                                     {"logits_chunk", 4 * 1000}, {"loss.hidden", 4 * 576}};
  for (const auto& [name, bytes] : decoder.workspace().Bytes()) {
    const auto found = per_target.find(name);
    EXPECT_EQ(bytes, planned[name] - (found == per_target.end() ? 0 : 2 * found->second)) << name;
  }
  EXPECT_EQ(base->bytes() - static_cast<int64_t>(base->inv_freq.nbytes()), weights);
  EXPECT_EQ(static_cast<int64_t>(adapter.parameters().nbytes()), planned["lora_master"]);
  EXPECT_EQ(static_cast<int64_t>(adapter.gradients().nbytes()), planned["lora_gradients"]);
}

INSTANTIATE_TEST_SUITE_P(Variants, PlannedBuffers,
                         testing::Values(Variant{true, false, true, 16, {}}, Variant{true, true, false, 3, {}},
                                         Variant{true, true, true, 4, {"v_proj", "o_proj"}, 0.1},
                                         Variant{false, false, true, 4, {"q_proj", "down_proj"}},
                                         Variant{false, true, false, 8, {"o_proj", "up_proj"}}));

}  // namespace
}  // namespace finetuned::model
