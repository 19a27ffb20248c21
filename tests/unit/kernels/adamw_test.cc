#include "kernels/adamw.h"

#include <torch/optim/adamw.h>

#include "tests/unit/kernels/goldens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(AdamW, EqualsTorchOptim) {
  AdamWOptions o = {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  std::vector<Tensor> params, oracle_params, m, v;
  for (int64_t n : {1, 1000, 70001}) {
    params.push_back(GoldenUniform(n, 1));
    oracle_params.push_back(params.back().clone().requires_grad_());
    m.push_back(at::zeros({n}));
    v.push_back(at::zeros({n}));
  }
  torch::optim::AdamW oracle(oracle_params, torch::optim::AdamWOptions(o.lr)
                                                .betas({o.beta1, o.beta2})
                                                .eps(o.eps)
                                                .weight_decay(o.weight_decay));
  for (o.step = 1; o.step <= 10; ++o.step) {
    std::vector<Tensor> grads;
    for (size_t i = 0; i < params.size(); ++i) {
      grads.push_back(GoldenUniform(params[i].numel(), 100 * o.step + i));
      oracle_params[i].mutable_grad() = grads.back() * 0.5;
    }
    oracle.step();
    AdamWStep(params, grads, m, v, o, at::full({1}, 0.5f), at::zeros({1}));
  }
  for (size_t i = 0; i < params.size(); ++i) {
    EXPECT_LT(RelativeError(params[i], oracle_params[i]), 3e-7) << i;
  }
}

std::vector<Tensor> GoldenGradients(int64_t n, uint32_t seed, bool poison) {
  std::vector<Tensor> grads;
  for (uint32_t t = 0; t < 10; ++t) {
    Tensor u = GoldenUniform(n, seed + t);
    Tensor g = u * u * u * 0x1p-6f;
    if (n > 512) g.narrow(0, 256, 256).zero_();
    if (t > 0) g.narrow(0, 512, std::min<int64_t>(256, n - 512)).zero_();
    grads.push_back(g);
  }
  if (poison) {
    grads[4][7] = std::numeric_limits<float>::quiet_NaN();
    grads[4][1500] = std::numeric_limits<float>::infinity();
  }
  return grads;
}

AdamWOptions GoldenOptions(const nlohmann::json& golden) {
  return {.lr = golden["lr"],
          .beta1 = golden["beta1"],
          .beta2 = golden["beta2"],
          .eps = golden["eps"],
          .weight_decay = golden["weight_decay"]};
}

// Relative to the distance that ten steps moved the parameters.
double DistanceToCpuBackend(const Tensor& p, const Tensor& start, const nlohmann::json& golden) {
  const auto values = golden["cpu_backend"]["p"].get<std::vector<double>>();
  const int64_t stride = golden["cpu_backend"]["p_stride"];
  const Tensor oracle = at::tensor(values, at::kDouble);
  const Tensor ours = p.slice(0, 0, p.numel(), stride).to(at::kDouble);
  const Tensor begin = start.slice(0, 0, p.numel(), stride).to(at::kDouble);
  return ((ours - oracle).pow(2).mean() / (oracle - begin).pow(2).mean()).sqrt().item<double>();
}

TEST(AdamW8bit, BitsEqualTheModelOfTheBitsandbytesKernel) {
  for (const auto& golden : Goldens()["adam8"]) {
    const int64_t n = golden["n"];
    SCOPED_TRACE(n);
    const uint32_t seed = golden["seed"];
    std::vector<Tensor> params = {GoldenUniform(n, seed + 1000)};
    std::vector<Adam8bitState> states = {NewAdam8bitState(params[0])};
    AdamWOptions o = GoldenOptions(golden);
    const Tensor scale = at::full({1}, golden["grad_scale"].get<float>());
    for (const Tensor& g : GoldenGradients(n, seed, golden["poison"])) {
      AdamW8bitStep(params, {g}, states, o, scale, at::zeros({1}));
      ++o.step;
    }
    const auto& kernel = golden["kernel"];
    EXPECT_EQ(Crc(params[0]), kernel["p"]);
    EXPECT_EQ(Crc(states[0].m_codes), kernel["m_codes"]);
    EXPECT_EQ(Crc(states[0].v_codes), kernel["v_codes"]);
    EXPECT_EQ(Crc(states[0].m_absmax), kernel["m_absmax"]);
    EXPECT_EQ(Crc(states[0].v_absmax), kernel["v_absmax"]);
  }
}

TEST(AdamW32Bnb, BitsEqualTheModelAndTheCpuBackendIsClose) {
  for (const auto& golden : Goldens()["adam32"]) {
    const int64_t n = golden["n"];
    SCOPED_TRACE(n);
    const uint32_t seed = golden["seed"];
    std::vector<Tensor> params = {GoldenUniform(n, seed + 1000)}, m = {at::zeros({n})},
                        v = {at::zeros({n})};
    const Tensor start = params[0].clone();
    AdamWOptions o = GoldenOptions(golden);
    const Tensor scale = at::full({1}, golden["grad_scale"].get<float>());
    for (const Tensor& g : GoldenGradients(n, seed, false)) {
      AdamW32BnbStep(params, {g}, m, v, o, scale, {});
      ++o.step;
    }
    EXPECT_EQ(Crc(params[0]), golden["kernel"]["p"]);
    EXPECT_EQ(Crc(m[0]), golden["kernel"]["m"]);
    EXPECT_EQ(Crc(v[0]), golden["kernel"]["v"]);
    EXPECT_LT(DistanceToCpuBackend(params[0], start, golden), 1e-3);
  }
}

TEST(AdamW, SkipFlagLeavesEverythingUntouched) {
  std::vector<Tensor> params = {at::ones({5000})}, m = {at::ones({5000})}, v = m;
  std::vector<Adam8bitState> states = {NewAdam8bitState(params[0])};
  const std::vector<Tensor> grads = {at::full({5000}, std::numeric_limits<float>::quiet_NaN())};
  const AdamWOptions o = {.lr = 0.1, .weight_decay = 0.1};
  const Tensor skip = at::ones({1});
  AdamWStep(params, grads, m, v, o, {}, skip);
  AdamW32BnbStep(params, grads, m, v, o, {}, skip);
  AdamW8bitStep(params, grads, states, o, {}, skip);
  EXPECT_TRUE(SameBits(params[0], at::ones({5000})));
  EXPECT_TRUE(SameBits(m[0], at::ones({5000})));
  EXPECT_TRUE(SameBits(states[0].m_codes, at::zeros({5000}, at::kByte)));
}

TEST(AdamW, WrongListsAreRefused) {
  std::vector<Tensor> params = {at::ones({8})}, m = {at::ones({7})}, v = {at::ones({8})}, none;
  const AdamWOptions o = {.lr = 0.1};
  EXPECT_THROW(AdamWStep(params, {at::ones({8})}, m, v, o, {}, {}), c10::Error);
  EXPECT_THROW(AdamWStep(params, none, v, v, o, {}, {}), c10::Error);
  EXPECT_THROW(AdamWStep(params, params, v, v, {.lr = 0.1, .step = 0}, {}, {}), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
