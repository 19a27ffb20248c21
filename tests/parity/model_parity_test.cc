// Logits, loss and gradients against transformers and peft; equalities of the decoder with itself.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/data/packing.h"
#include "engine/format/model_source.h"
#include "engine/model/decoder.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

constexpr double kTolerance = 1e-4;

class ModelParity : public testing::TestWithParam<std::string> {
 protected:
  c10::InferenceMode no_autograd_;
};

class SingleModelParity : public testing::Test {
 protected:
  c10::InferenceMode no_autograd_;
};

struct Gradients {
  double loss = 0;
  at::Tensor all;
};

// Loss (mean over targets of all batches) and adapter gradients.
Gradients ComputeGradients(const model::BaseModel& base, lora::Adapter& adapter,
                           const std::vector<data::PackedBatch>& batches,
                           const model::DecoderOptions& options = {}) {
  model::Decoder decoder(base, adapter, options);
  adapter.ZeroGradients();
  int64_t targets = 0;
  for (const auto& b : batches) targets += b.num_targets;
  const at::Tensor scale = at::full({1}, 1.0 / static_cast<double>(targets), at::kFloat);
  at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
  uint64_t pass = 0;
  for (const auto& b : batches) {
    decoder.ForwardBackward(model::Upload(b, at::kCPU), scale, 42, pass++, sums);
  }
  return {sums[0].item<double>() / static_cast<double>(targets), adapter.gradients().clone()};
}

// Each document of a batch as a batch of its own.
std::vector<data::PackedBatch> OneByOne(const data::PackedBatch& batch) {
  std::vector<data::PackedBatch> out;
  for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
    const int32_t begin = batch.cu_seqlens[d], end = batch.cu_seqlens[d + 1];
    auto part = [&](const std::vector<int32_t>& v) {
      return std::vector<int32_t>(v.begin() + begin, v.begin() + end);
    };
    data::PackedBatch one{part(batch.input_ids), part(batch.labels), part(batch.position_ids),
                          {0, end - begin}, end - begin, {}, 0};
    for (int32_t label : one.labels) one.num_targets += label >= 0;
    out.push_back(one);
  }
  return out;
}

TEST_P(ModelParity, BaseAndAdaptedLogitsEqualTransformers) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  const auto batch = model::Upload(GoldenBatch(golden), at::kCPU);
  model::Decoder decoder(*base, *adapter, {});
  EXPECT_LT((decoder.Logits(batch) - golden.at("logits")).abs().max().item<double>(), kTolerance);
  adapter->parameters().zero_();
  EXPECT_LT((decoder.Logits(batch) - golden.at("base_logits")).abs().max().item<double>(),
            kTolerance);
}

TEST_P(ModelParity, LossAndEveryGradientEqualPeft) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  const Gradients got = ComputeGradients(*base, *adapter, {GoldenBatch(golden)});
  EXPECT_NEAR(got.loss, golden.at("loss").item<double>(), kTolerance);
  size_t compared = 0;
  for (const lora::Site& site : adapter->sites()) {
    const std::string name = "grad.base_model.model.model.layers." + std::to_string(site.layer) +
                             "." + lora::TargetPath(site.target);
    EXPECT_LT(RelativeError(site.da_RI, golden.at(name + ".lora_A.weight")), kTolerance) << name;
    EXPECT_LT(RelativeError(site.db_OR, golden.at(name + ".lora_B.weight")), kTolerance) << name;
    compared += 2;
  }
  size_t wanted = 0;
  for (const auto& [name, tensor] : golden) wanted += name.rfind("grad.", 0) == 0;
  EXPECT_EQ(compared, wanted);
}

TEST_P(ModelParity, RecomputingActivationsChangesNothing) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/true);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  const Gradients kept = ComputeGradients(*base, *adapter, {GoldenBatch(golden)});
  const Gradients recomputed =
      ComputeGradients(*base, *adapter, {GoldenBatch(golden)}, {.recompute_activations = true});
  EXPECT_EQ(kept.loss, recomputed.loss);
  EXPECT_TRUE(at::equal(kept.all, recomputed.all));
}

// What may be kept, where inputs wait, and how many rows are worked on at a time.
TEST_P(ModelParity, PiecesKeptPartsOffloadAndStandingWeightsChangeNothing) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  for (const bool nf4 : {true, false}) {
    const auto base = LoadGoldenModel(GetParam(), nf4);
    lora::Options options = LoadGoldenAdapter(GetParam() + "_adapter", *base)->options();
    options.dropout = nf4 ? 0 : 0.3;  // without dropout over NF4 the adapters ride on the products
    lora::Adapter adapter(base->config, options, at::kCPU, at::kFloat);
    adapter.Initialize(1);
    adapter.parameters().add_(0.01);
    const std::vector<data::PackedBatch> batches = {GoldenBatch(golden), GoldenBatch(golden)};
    const Gradients kept = ComputeGradients(*base, adapter, batches);
    for (const model::DecoderOptions& how :
         {model::DecoderOptions{.recompute_activations = true, .piece_rows = 4},
          {.recompute_activations = true, .offload_inputs = true, .piece_rows = 4},
          {.recompute_activations = true, .keep_attention_layers = 1, .piece_rows = 8},
          {.recompute_activations = true, .keep_all_layers = 1, .offload_inputs = true, .piece_rows = 8},
          {.standing_layers = nf4 ? 2 : 0},
          {.standing_layers = nf4 ? 1 : 0},
          {.recompute_activations = true, .piece_rows = 4, .standing_layers = nf4 ? 1 : 0}}) {
      const Gradients pieces = ComputeGradients(*base, adapter, batches, how);
      EXPECT_NEAR(pieces.loss, kept.loss, 1e-6 * kept.loss);
      EXPECT_LT(RelativeError(pieces.all, kept.all), 1e-5);
    }
  }
}

TEST_P(ModelParity, RecomputingRepeatsTheDropoutMasks) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  lora::Options options = LoadGoldenAdapter(GetParam() + "_adapter", *base)->options();
  options.dropout = 0.3;
  lora::Adapter adapter(base->config, options, at::kCPU, at::kFloat);
  adapter.Initialize(1);
  adapter.parameters().add_(0.01);
  const Gradients kept = ComputeGradients(*base, adapter, {GoldenBatch(golden)});
  const Gradients recomputed =
      ComputeGradients(*base, adapter, {GoldenBatch(golden)}, {.recompute_activations = true});
  EXPECT_TRUE(at::equal(kept.all, recomputed.all));
  EXPECT_GT(kept.all.abs().max().item<double>(), 0);
}

TEST_P(ModelParity, PackedDocumentsEqualOneByOne) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  const data::PackedBatch packed = GoldenBatch(golden);
  const Gradients together = ComputeGradients(*base, *adapter, {packed});
  // The same numbers by accumulation over micro-batches of one document.
  const Gradients apart = ComputeGradients(*base, *adapter, OneByOne(packed));
  EXPECT_NEAR(together.loss, apart.loss, 1e-6);
  EXPECT_LT(RelativeError(together.all, apart.all), 1e-5);
}

TEST_P(ModelParity, ADocumentDoesNotSeeItsNeighbours) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  data::PackedBatch batch = GoldenBatch(golden);
  model::Decoder decoder(*base, *adapter, {});
  const int64_t first = batch.cu_seqlens[1], last = batch.cu_seqlens[2];
  auto middle = [&] {
    return decoder.Logits(model::Upload(batch, at::kCPU)).narrow(0, first, last - first);
  };
  const at::Tensor before = middle().clone();
  for (int64_t t = 0; t < static_cast<int64_t>(batch.input_ids.size()); ++t) {
    if (t < first || t >= last) batch.input_ids[t] = (batch.input_ids[t] + 17) % 256;
  }
  EXPECT_TRUE(at::equal(before, middle()));
}

// The gradient from a difference quotient along a random direction, so that the explicit backward is
// also checked without the goldens.
TEST_P(ModelParity, GradientPredictsTheChangeOfTheLoss) {
  const auto golden = ReadTensors(GoldenPath(GetParam() + ".safetensors"));
  const auto base = LoadGoldenModel(GetParam(), /*nf4=*/false);
  const auto adapter = LoadGoldenAdapter(GetParam() + "_adapter", *base);
  const data::PackedBatch batch = GoldenBatch(golden);
  const at::Tensor gradient = ComputeGradients(*base, *adapter, {batch}).all;
  const at::Tensor start = adapter->parameters().clone();
  const double h = 0.005 / gradient.norm().item<double>();
  auto loss_at = [&](double step) {
    adapter->parameters().copy_(start + gradient * step);
    model::Decoder decoder(*base, *adapter, {});
    at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
    decoder.Evaluate(model::Upload(batch, at::kCPU), sums);
    return sums[0].item<double>() / static_cast<double>(batch.num_targets);
  };
  const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
  EXPECT_NEAR(slope / gradient.square().sum().item<double>(), 1, 2e-3);
}

INSTANTIATE_TEST_SUITE_P(Models, ModelParity, testing::Values("untied", "tied"),
                         [](const auto& info) { return info.param; });

TEST_F(SingleModelParity, Nf4BaseAndHeadEqualBitsandbytes) {
  const auto golden = ReadTensors(GoldenPath("untied.safetensors"));
  const auto nf4 = ReadTensors(GoldenPath("untied_nf4.safetensors"));
  const auto batch = model::Upload(GoldenBatch(golden), at::kCPU);
  at::Tensor other = golden.at("base_logits");
  for (const bool head_too : {false, true}) {
    const auto base = LoadGoldenModel("untied", {.nf4_lm_head = head_too});
    const auto adapter = LoadGoldenAdapter("untied_adapter", *base);
    adapter->parameters().zero_();
    model::Decoder decoder(*base, *adapter, {});
    const at::Tensor logits = decoder.Logits(batch);
    EXPECT_LT((logits - nf4.at(head_too ? "logits_head_too" : "logits")).abs().max().item<double>(), kTolerance);
    EXPECT_GT((logits - other).abs().max().item<double>(), 100 * kTolerance);
    other = logits;
  }
}

TEST_F(SingleModelParity, Nf4HeadOfATiedModelIsRefused) {
  EXPECT_THAT([] { LoadGoldenModel("tied", {.nf4_lm_head = true}); },
              testing::ThrowsMessage<std::runtime_error>(testing::HasSubstr("quantization.lm_head nf4 needs a head of its own")));
}

TEST_F(SingleModelParity, SmolLm2LossEqualsTransformers) {
  const std::string path =
      std::string(FINETUNED_DEPS_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  auto source = format::OpenModel(path);
  if (absl::IsNotFound(source.status())) GTEST_SKIP() << path << " is not there";
  ASSERT_TRUE(source.ok()) << source.status();
  auto base = model::LoadBaseModel(**source, path, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  ASSERT_TRUE(base.ok()) << base.status();
  lora::Options options{.rank = 2, .targets = {lora::Target::kQ}};
  lora::Adapter adapter((*base)->config, options, at::kCPU, at::kFloat);  // zero: the base alone
  const nlohmann::json golden = ReadGoldenJson("smollm2.json");
  data::TokenizedDataset dataset;
  for (const auto& ids : golden["rows"]) {
    data::TokenizedRow row;
    row.input_ids = ids.get<std::vector<int32_t>>();
    row.trained.assign(row.input_ids.size(), 1);
    dataset.rows.push_back(row);
  }
  data::BatchPlanOptions plan_options;
  plan_options.micro_batch_size = 3;
  plan_options.shuffle = false;
  const data::PackedBatch batch = data::BatchPlan(dataset.rows, plan_options, 0).Build(0);
  model::Decoder decoder(**base, adapter, {});
  at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
  decoder.Evaluate(model::Upload(batch, at::kCPU), sums);
  const double wanted = golden["loss"];
  EXPECT_NEAR(sums[0].item<double>() / static_cast<double>(batch.num_targets), wanted,
              1e-4 * wanted);
}

}  // namespace
}  // namespace finetuned::parity
