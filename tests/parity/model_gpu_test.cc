// bfloat16 on the GPU against float32 on the CPU, which equals transformers and peft (model_parity_test).
// The bound is twice what plain bfloat16 loses there (tests/golden/parity/bf16_errors.json) plus a floor.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#ifdef FINETUNED_HAVE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/format/model_source.h"
#include "engine/lora/peft_files.h"
#include "engine/model/decoder.h"
#include "engine/train/optimizer.h"
#include "engine/train/run.h"
#include "kernels/finite.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

constexpr double kFloor = 1.0 / 256;  // half a unit of bfloat16's last place, twice

struct Outcome {
  at::Tensor logits;
  double loss = 0;
  std::map<std::string, at::Tensor> grads;
};

std::shared_ptr<model::BaseModel> Load(const std::string& path, const model::LoadOptions& options) {
  auto source = format::OpenModel(path);
  if (!source.ok()) throw std::runtime_error(std::string(source.status().message()));
  auto base = model::LoadBaseModel(**source, path, options);
  if (!base.ok()) throw std::runtime_error(std::string(base.status().message()));
  return *base;
}

Outcome Compute(const std::string& name, const model::LoadOptions& options, const model::DecoderOptions& how = {},
                const std::string& adapter_name = "") {
  c10::InferenceMode no_autograd;
  const auto base = Load(GoldenPath(name), options);
  const auto adapter = LoadGoldenAdapter(adapter_name.empty() ? name + "_adapter" : adapter_name, *base);
  adapter->RefreshCompute();
  const std::string& golden = adapter_name.empty() ? name : adapter_name;
  const data::PackedBatch packed = GoldenBatch(ReadTensors(GoldenPath(golden + ".safetensors")));
  const auto batch = model::Upload(packed, options.device);
  model::Decoder decoder(*base, *adapter, how);
  Outcome out;
  out.logits = decoder.Logits(batch).cpu().to(at::kFloat);
  adapter->gradients().zero_();
  at::Tensor sums = at::zeros({model::kLossSums}, at::device(options.device).dtype(at::kDouble));
  const at::Tensor scale = at::full({1}, 1.0 / static_cast<double>(packed.num_targets),
                                    at::device(options.device).dtype(at::kFloat));
  decoder.ForwardBackward(batch, scale, 0, 0, sums);
  out.loss = sums[0].item<double>() / static_cast<double>(packed.num_targets);
  for (const lora::NamedParameter& p : adapter->named_parameters()) out.grads[p.name] = p.gradient.cpu().clone();
  return out;
}

class ModelGpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

class Nf4HeadGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

void ExpectWithin(const Outcome& ours, const Outcome& truth, const nlohmann::json& plain, double factor) {
  EXPECT_LE(RelativeError(ours.logits, truth.logits), factor * plain["logits"].get<double>() + kFloor);
  EXPECT_LE(std::abs(ours.loss - truth.loss), factor * plain["loss"].get<double>() + kFloor);
  for (const auto& [key, grad] : truth.grads) {
    EXPECT_LE(RelativeError(ours.grads.at(key), grad), factor * plain["grads"].at(key).get<double>() + kFloor) << key;
  }
}

TEST_P(ModelGpu, LogitsLossAndGradientsAreWithinBfloat16) {
  const Outcome truth = Compute(GetParam(), {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  const Outcome ours = Compute(GetParam(), {at::kCUDA, at::kBFloat16, plan::BaseFormat::kCompute});
  ExpectWithin(ours, truth, ReadGoldenJson("bf16_errors.json")[GetParam()], 2);
}

TEST_P(ModelGpu, Float32OnTheGpuEqualsTheCpu) {
  const Outcome truth = Compute(GetParam(), {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  const Outcome ours = Compute(GetParam(), {at::kCUDA, at::kFloat, plan::BaseFormat::kCompute});
  EXPECT_LT(RelativeError(ours.logits, truth.logits), 1e-4);
  EXPECT_NEAR(ours.loss, truth.loss, 1e-4);
  for (const auto& [key, grad] : truth.grads) EXPECT_LT(RelativeError(ours.grads.at(key), grad), 1e-3) << key;
}

TEST_P(ModelGpu, Nf4BaseIsWithinBfloat16OfTheSameBaseOnTheCpu) {
  const Outcome truth = Compute(GetParam(), {at::kCPU, at::kFloat, plan::BaseFormat::kNf4});
  const Outcome ours = Compute(GetParam(), {at::kCUDA, at::kBFloat16, plan::BaseFormat::kNf4});
  ExpectWithin(ours, truth, ReadGoldenJson("bf16_errors.json")[GetParam()], 2);
}

TEST_F(Nf4HeadGpu, IsWithinBfloat16OfTheSameHeadOnTheCpu) {
  const auto options = [](at::Device device, at::ScalarType type) {
    return model::LoadOptions{.device = device, .dtype = type, .nf4_lm_head = true};
  };
  const Outcome truth = Compute("untied", options(at::kCPU, at::kFloat));
  const Outcome ours = Compute("untied", options(at::kCUDA, at::kBFloat16));
  ExpectWithin(ours, truth, ReadGoldenJson("bf16_errors.json")["untied"], 2);
}

TEST_F(Nf4HeadGpu, InPartsGivesWhatTheDequantizedHeadGives) {
  c10::InferenceMode no_autograd;
  const int64_t v = 3000, d = 192, c = 40;  // parts of 1024 rows
  const auto bf16 = at::device(at::kCUDA).dtype(at::kBFloat16);
  const auto stored = model::FrozenLinear::Stored({kernels::Nf4Quantize(at::randn({v, d}, bf16), true)}, d, {});
  const model::LmHead in_parts{.stored = &stored, .scratch = at::empty({1024 * d}, bf16)};
  const model::LmHead whole{.dense_VD = stored.Rows(0, v, at::empty({v * d}, bf16))};
  model::Workspace workspace(at::kCUDA);
  const at::Tensor rows = at::randn({c, d}, bf16), dlogits = at::randn({c, v}, bf16);
  at::Tensor got = at::full({c, v}, NAN, bf16.dtype(at::kFloat)), want = at::empty_like(got);
  model::HeadLogits(in_parts, rows, got);
  model::HeadLogits(whole, rows, want);
  EXPECT_LT((got - want).abs().max().item<double>(), 1e-3);
  at::Tensor d_got = at::full({c, d}, NAN, bf16), d_want = at::empty_like(d_got);
  model::HeadGradient(in_parts, dlogits, workspace, d_got);
  model::HeadGradient(whole, dlogits, workspace, d_want);
  EXPECT_LT(RelativeError(d_got.to(at::kFloat), d_want.to(at::kFloat)), 1.0 / 256);
}

TEST_P(ModelGpu, RecomputingActivationsGivesTheSameBits) {
  const Outcome kept = Compute(GetParam(), {at::kCUDA, at::kBFloat16, plan::BaseFormat::kNf4}, {.deterministic = true});
  const Outcome again = Compute(GetParam(), {at::kCUDA, at::kBFloat16, plan::BaseFormat::kNf4},
                                {.recompute_activations = true, .deterministic = true});
  EXPECT_EQ(kept.loss, again.loss);
  for (const auto& [key, grad] : kept.grads) EXPECT_TRUE(grad.equal(again.grads.at(key))) << key;
}

// In float32, so that only the order of sums differs; 8-bit bases are also compared in bfloat16, by their logits.
TEST(AdapterKindsGpu, EqualTheCpuOnEveryBase) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  for (const char* kind : {"patterns", "dora", "dora_patterns", "modules", "bias_all", "bias_lora_only", "bias_dora"}) {
    const std::string base = std::string(kind).starts_with("bias") ? "kinds/biased" : "untied";
    for (const plan::BaseFormat format : {plan::BaseFormat::kCompute, plan::BaseFormat::kNf4, plan::BaseFormat::kFp4,
                                          plan::BaseFormat::kInt8, plan::BaseFormat::kFp8}) {
      SCOPED_TRACE(std::string(kind) + " on " + plan::BaseFormatName(format));
      const std::string adapter = std::string("kinds/") + kind;
      const Outcome truth = Compute(base, {at::kCPU, at::kFloat, format}, {}, adapter);
      const Outcome ours = Compute(base, {at::kCUDA, at::kFloat, format}, {}, adapter);
      EXPECT_LT(RelativeError(ours.logits, truth.logits), 1e-4);
      EXPECT_NEAR(ours.loss, truth.loss, 1e-4);
      for (const auto& [key, grad] : truth.grads) EXPECT_LT(RelativeError(ours.grads.at(key), grad), 1e-3) << key;
      const Outcome narrow = Compute(base, {at::kCUDA, at::kBFloat16, format}, {.recompute_activations = true}, adapter);
      EXPECT_LT(RelativeError(narrow.logits, truth.logits), 0.05);
      EXPECT_NEAR(narrow.loss, truth.loss, 0.05);
      if (format != plan::BaseFormat::kInt8) continue;
      const Outcome int8 = Compute(base, {at::kCUDA, at::kBFloat16, format, plan::MatmulPrecision::kCompute, true, 6}, {}, adapter);
      EXPECT_LT(RelativeError(int8.logits, truth.logits), 0.08);
      EXPECT_NEAR(int8.loss, truth.loss, 0.05);
    }
  }
}

#ifdef FINETUNED_HAVE_CUDA
// A micro-batch is queued and the adapter updated without a wait for the device (LibTorch's own waits throw here; the
// kernels have none), and after the first steps the driver is asked for no memory.
TEST(StepGpu, NeitherWaitsNorAsksForMemory) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  c10::InferenceMode no_autograd;
  const data::PackedBatch packed = GoldenBatch(ReadTensors(GoldenPath("untied.safetensors")));
  for (const model::DecoderOptions& how : {model::DecoderOptions{}, model::DecoderOptions{.recompute_activations = true},
                                           model::DecoderOptions{.recompute_activations = true, .offload_inputs = true},
                                           model::DecoderOptions{.standing_layers = 1}}) {
    const auto base = Load(GoldenPath("untied"), {at::kCUDA, at::kBFloat16, plan::BaseFormat::kNf4});
    const auto adapter = LoadGoldenAdapter("untied_adapter", *base);
    adapter->RefreshCompute();
    train::Optimizer optimizer({}, adapter.get());
    model::Decoder decoder(*base, *adapter, how);
    const auto on_device = at::device(at::kCUDA);
    at::Tensor sums = at::zeros({model::kLossSums}, on_device.dtype(at::kDouble));
    const at::Tensor scale = at::full({1}, 1.0 / static_cast<double>(packed.num_targets), on_device.dtype(at::kFloat));
    at::Tensor norm = at::empty({1}, on_device.dtype(at::kFloat)), clip = at::empty_like(norm), skip = at::empty_like(norm);
    const auto step = [&](int64_t number) {
      adapter->gradients().zero_();
      decoder.ForwardBackward(model::Upload(packed, at::kCUDA), scale, 0, 0, sums);
      kernels::GradNormAndScale({adapter->gradients()}, 1.0, norm, clip, skip);
      optimizer.Step(1e-4, number, clip, skip);
    };
    for (int64_t i = 1; i <= 3; ++i) step(i);
    const auto asked = [] { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).num_device_alloc; };
    const int64_t before = asked();
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
    try {
      for (int64_t i = 4; i <= 8; ++i) step(i);
    } catch (const c10::Error& error) {
      ADD_FAILURE() << error.what();
    }
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
    EXPECT_EQ(asked(), before);
    EXPECT_EQ(skip.item<float>(), 0);
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(Models, ModelGpu, testing::Values("untied", "tied"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace finetuned::parity
