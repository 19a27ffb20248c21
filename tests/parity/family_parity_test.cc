// Every family against transformers and peft on a tiny random model: logits, loss, all adapter gradients, greedy
// generation. And with itself: recomputed activations, planned buffers, pieces.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "engine/format/model_source.h"
#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "engine/plan/memory_plan.h"
#include "tests/parity/family_testing.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

constexpr double kTolerance = 1e-4;

class FamilyParity : public testing::TestWithParam<std::string> {
 protected:
  const std::string name_ = "families/" + GetParam();
  const std::map<std::string, at::Tensor> golden_ = ReadTensors(GoldenPath(name_ + ".safetensors"));
  const data::PackedBatch batch_ = GoldenBatch(golden_);
  c10::InferenceMode no_autograd_;
};

TEST_P(FamilyParity, LogitsLossAndEveryGradientEqualTransformers) {
  const FamilyOutcome got = ComputeFamily(name_, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute}, batch_);
  EXPECT_LT((got.logits - golden_.at("logits")).abs().max().item<double>(), kTolerance);
  EXPECT_NEAR(got.loss, golden_.at("loss").item<double>(), kTolerance);
  size_t wanted = 0;
  for (const auto& [key, tensor] : golden_) {
    if (key.rfind("grad.", 0) != 0) continue;
    ++wanted;
    const auto grad = got.grads.find(key.substr(5));
    ASSERT_NE(grad, got.grads.end()) << key;
    EXPECT_LT(RelativeError(grad->second, tensor), kTolerance) << key;
  }
  EXPECT_EQ(wanted, got.grads.size());
}

TEST_P(FamilyParity, RecomputedPiecesOverNf4ChangeNothing) {
  const model::LoadOptions nf4 = {at::kCPU, at::kFloat, plan::BaseFormat::kNf4};
  const FamilyOutcome kept = ComputeFamily(name_, nf4, batch_);
  for (const model::DecoderOptions& how :
       {model::DecoderOptions{.recompute_activations = true, .piece_rows = 16},
        {.recompute_activations = true, .keep_attention_layers = 1, .piece_rows = 16},
        {.recompute_activations = true, .keep_all_layers = 1, .piece_rows = 16}}) {
    const FamilyOutcome pieces = ComputeFamily(name_, nf4, batch_, how);
    EXPECT_NEAR(pieces.loss, kept.loss, 1e-6 * kept.loss);
    for (const auto& [key, grad] : kept.grads) EXPECT_LT(RelativeError(pieces.grads.at(key), grad), 2e-5) << key;
  }
}

TEST_P(FamilyParity, GreedyAnswerEqualsTransformers) {
  ExpectGreedyAnswer(name_, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
}

TEST_P(FamilyParity, TheEngineTakesThePlannedBuffers) {
  const auto base = LoadGoldenModel(name_, /*nf4=*/true);
  const auto adapter = LoadGoldenAdapter(name_ + "_adapter", *base);
  plan::PlanInput input = model::PlanInputOf(*base);
  input.lora_rank = adapter->options().rank;
  input.micro_batch_size = static_cast<int64_t>(batch_.cu_seqlens.size()) - 1;
  input.max_seq_length = batch_.max_seqlen;
  std::map<std::string, int64_t> planned;
  for (const plan::Buffer& b : plan::PlanMemory(input).buffers) planned[b.name] += b.bytes;
  model::Decoder decoder(*base, *adapter, {});
  at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
  decoder.ForwardBackward(model::Upload(batch_, at::kCPU), at::ones({1}), 0, 0, sums);
  for (const auto& [name, bytes] : decoder.workspace().Bytes()) {
    if (name.rfind("layer", 0) != 0 && name.rfind("backward.", 0) != 0) continue;
    ASSERT_EQ(planned.count(name), 1u) << name;
    EXPECT_LE(bytes, planned[name]) << name;  // the plan takes every document for the longest
    EXPECT_GT(2 * bytes, planned[name]) << name;
  }
  int64_t weights = 0;
  for (const char* name : {"norms", "layer.biases"}) weights += planned[name];
  int64_t held = static_cast<int64_t>(base->final_norm_D.nbytes());
  for (const model::LayerWeights& l : base->layers) {
    for (const at::Tensor* t : {&l.input_norm_D, &l.mlp_norm_D, &l.attention_post_norm_D, &l.mlp_post_norm_D, &l.q_norm,
                                &l.k_norm, &l.qkv.bias_O(), &l.o.bias_O(), &l.gate_up.bias_O(), &l.down.bias_O()}) {
      if (t->defined()) held += static_cast<int64_t>(t->nbytes());
    }
  }
  EXPECT_EQ(held, weights);
}

// A real model with what the random ones have in small: 262144 tokens, five of six layers with a window.
TEST(Gemma3, LossAndAnswersOfTheGgufFileEqualTransformers) {
  const c10::InferenceMode no_autograd;
  const std::string path = std::string(FINETUNED_DEPS_DIR) + "/models/gemma-3-270m.Q4_K_M.gguf";
  const auto source = format::OpenModel(path);
  if (absl::IsNotFound(source.status())) GTEST_SKIP() << path << " is not there; tests/fetch_gemma3.sh fetches it";
  ASSERT_TRUE(source.ok()) << source.status();
  const auto tokenizer = (*source)->LoadTokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto base = model::LoadBaseModel(**source, path, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  ASSERT_TRUE(base.ok()) << base.status();
  lora::Adapter adapter((*base)->config, {.rank = 1, .targets = {lora::Target::kQ}}, at::kCPU, at::kFloat);  // zero
  const nlohmann::json golden = ReadGoldenJson("gemma3.json");
  data::PackedBatch batch;
  batch.cu_seqlens = {0};
  for (const auto& row : golden["rows"]) {
    const auto ids = row.get<std::vector<int32_t>>();
    const auto again = (*tokenizer)->Encode((*tokenizer)->Decode(ids, /*skip_special=*/true), {.add_special_tokens = true});
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(again->size(), ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ((*again)[i].id, ids[i]);
      batch.input_ids.push_back(ids[i]);
      batch.labels.push_back(i + 1 < ids.size() ? ids[i + 1] : -100);
      batch.position_ids.push_back(static_cast<int32_t>(i));
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.num_targets += static_cast<int64_t>(ids.size()) - 1;
    batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(ids.size()));
  }
  model::Decoder decoder(**base, adapter, {});
  at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
  decoder.Evaluate(model::Upload(batch, at::kCPU), sums);
  const double wanted = golden["loss"];
  EXPECT_NEAR(sums[0].item<double>() / static_cast<double>(batch.num_targets), wanted, 1e-4 * wanted);

  std::vector<generate::Request> requests;
  for (const auto& answer : golden["answers"]) {
    requests.push_back({answer["prompt"].get<std::vector<int32_t>>(), 1, {}});
    requests.back().sampling.temperature = 0;
    requests.back().sampling.max_new_tokens = static_cast<int64_t>(answer["answer"].size());
  }
  generate::GeneratorOptions options;
  options.max_batch = 4;
  options.cache_tokens = 256;
  options.max_sequence_tokens = 64;
  generate::Generator generator(**base, nullptr, options);
  const auto got = generator.Generate(requests);
  ASSERT_TRUE(got.ok()) << got.status();
  for (size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ((*got)[r][0].tokens, golden["answers"][r]["answer"].get<std::vector<int32_t>>()) << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyParity, testing::ValuesIn(FamilyNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace finetuned::parity
