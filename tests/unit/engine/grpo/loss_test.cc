// Losses, gradients and metrics against TRL (tests/golden/grpo/make_goldens.py).
#include "engine/grpo/loss.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

namespace finetuned::grpo {
namespace {

using nlohmann::json;

const json& Goldens() {
  static const auto* const kGoldens = [] {
    std::ifstream in(FINETUNED_SOURCE_DIR "/tests/golden/grpo/grpo.json");
    return new json(json::parse(in));
  }();
  return *kGoldens;
}

LossOptions OptionsOf(const json& c) {
  LossOptions o;
  o.type = ParseLossType(c.at("loss_type")).value();
  o.sequence_level = c.at("importance_sampling") == "sequence";
  o.clip_low = c.at("clip_low");
  o.clip_high = c.at("clip_high");
  if (!c.at("delta").is_null()) o.delta = c.at("delta").get<double>();
  o.beta = c.at("beta");
  o.bias_corrected_kl = c.at("use_bias_correction_kl");
  o.top_entropy_quantile = c.at("top_entropy_quantile");
  o.entropy_coef = c.at("entropy_coef");
  o.max_completion_tokens = Goldens().at("max_completion_tokens");
  return o;
}

at::Tensor Floats(const json& list) {
  const auto values = list.get<std::vector<double>>();
  return at::tensor(at::ArrayRef<double>(values)).to(at::kFloat);
}

void ExpectNear(double got, double wanted, const std::string& what) {
  EXPECT_NEAR(got, wanted, 1e-4 * std::max(1.0, std::abs(wanted))) << what;
}

void CheckStep(const json& c, const json& step, double window_tokens) {
  const LossOptions options = OptionsOf(c);
  const auto lengths = step.at("lengths").get<std::vector<int64_t>>();
  const auto advantages = step.at("advantages").get<std::vector<double>>();
  const LossBatch batch = MakeLossBatch(lengths, advantages, at::kCPU);
  if (batch.targets == 0) return;  // the caller runs no such micro-batch; TRL's gradient of it is 0
  PolicyLogProbs log_probs = {Floats(step.at("logps")), {}, {}, Floats(step.at("entropies"))};
  if (!c.at("on_policy").get<bool>()) log_probs.old_M = Floats(step.at("old"));
  if (options.beta != 0) log_probs.reference_M = Floats(step.at("ref"));
  const LossResult got =
      PolicyLoss(batch, log_probs, {c.at("accumulation"), window_tokens}, options);

  ExpectNear(got.loss.item<float>(), step.at("loss"), "loss");
  const auto wanted = step.at("d_logps").get<std::vector<double>>();
  ASSERT_EQ(got.d_M.numel(), static_cast<int64_t>(wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ExpectNear(got.d_M[static_cast<int64_t>(i)].item<float>(), wanted[i],
               "gradient of target " + std::to_string(i));
  }
  ASSERT_EQ(got.d_entropy_M.defined(), options.entropy_coef != 0);
  if (options.entropy_coef != 0) {
    EXPECT_TRUE(at::allclose(got.d_entropy_M, Floats(step.at("d_entropies")), 1e-4, 1e-6));
  }
  const std::vector<bool> has = MetricsOf(options);
  size_t metrics = 0;
  for (int64_t i = 0; i < kMetrics; ++i) {
    if (!has[i]) continue;
    ++metrics;
    ExpectNear(got.metrics[i].item<float>(), step.at("metrics").at(kMetricNames[i]),
               kMetricNames[i]);
  }
  // TRL also reports the coefficient, the same in every step.
  EXPECT_EQ(metrics + (options.entropy_coef != 0 ? 1 : 0), step.at("metrics").size()) << "TRL reports other metrics";
}

TEST(PolicyLoss, EqualsTrlForEveryLossTypeAndAggregation) {
  const c10::InferenceMode no_autograd;
  std::set<std::string> types;
  for (const json& c : Goldens().at("losses")) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    types.insert(c.at("loss_type"));
    double tokens = 0;
    for (const json& step : c.at("steps")) {
      for (const int64_t length : step.at("lengths")) tokens += static_cast<double>(length);
    }
    // The rollout may hold several optimizer steps.
    tokens *= c.at("accumulation").get<double>() / static_cast<double>(c.at("steps").size());
    for (const json& step : c.at("steps")) CheckStep(c, step, tokens);
  }
  EXPECT_EQ(types.size(), LossTypeNames().size());
}

// Where all ratios are 1 nothing is clipped, so the gradient is that of -A log p.
TEST(PolicyLoss, OnPolicyItIsThePolicyGradient) {
  const c10::InferenceMode no_autograd;
  const std::vector<int64_t> lengths = {2, 1};
  const std::vector<double> advantages = {1.5, -0.5};
  const LossBatch batch = MakeLossBatch(lengths, advantages, at::kCPU);
  const at::Tensor x = at::tensor({-1.0f, -2.0f, -0.5f});
  for (const LossType type : {LossType::kDapo, LossType::kBnpo}) {
    LossOptions options;
    options.type = type;
    const LossResult got = PolicyLoss(batch, {x, {}, {}, at::ones({3})}, {1, 3}, options);
    EXPECT_TRUE(at::allclose(got.d_M, at::tensor({-0.5f, -0.5f, 0.5f / 3})));
  }
}

TEST(PolicyLoss, NamesAreTrls) {
  EXPECT_EQ(ParseLossType("dr_grpo"), LossType::kDrGrpo);
  EXPECT_EQ(ParseLossType("vespo"), LossType::kVespo);
  EXPECT_FALSE(ParseLossType("ppo"));
}

}  // namespace
}  // namespace finetuned::grpo
