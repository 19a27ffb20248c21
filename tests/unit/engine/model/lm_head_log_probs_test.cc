// Log probabilities through the chunked head against autograd in float64, and against the decoder's
// own loss.
#include "engine/model/lm_head_log_probs.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <tuple>

#include "engine/model/decoder.h"
#include "tests/bench/engine/random_model.h"

namespace finetuned::model {
namespace {

constexpr int64_t kTokens = 40, kHidden = 24, kVocabulary = 57;

// Every third row has no target.
DeviceBatch BatchWithGaps() {
  data::PackedBatch batch;
  batch.cu_seqlens = {0, kTokens};
  batch.max_seqlen = kTokens;
  for (int32_t t = 0; t < kTokens; ++t) {
    batch.input_ids.push_back(t);
    batch.position_ids.push_back(t);
    batch.labels.push_back(t % 3 == 2 ? -100 : (t * 31 + 5) % kVocabulary);
  }
  return Upload(batch, at::kCPU);
}

class LmHeadLogProbsTest : public testing::TestWithParam<std::tuple<int64_t, double>> {
 protected:
  LmHeadLogProbsTest() {
    at::manual_seed(3);
    hidden_ = at::randn({kTokens, kHidden}).set_requires_grad(true);
    weight_ = at::randn({kVocabulary, kHidden}) * 0.5;
    d_log_probs_ = at::randn({batch_.targets});
    rows_ = batch_.target_rows_M.to(at::kLong);
    labels_ = batch_.target_labels_M.to(at::kLong).unsqueeze(1);
    const at::Tensor logits =
        at::mm(hidden_.to(at::kDouble).index_select(0, rows_), weight_.to(at::kDouble).t()) /
        temperature();
    log_softmax_ = at::log_softmax(logits, -1);
    mean_logit_ = logits.mean(1);
  }
  LmHead head() const { return {.dense_VD = weight_}; }
  int64_t chunk_rows() const { return std::get<0>(GetParam()); }
  double temperature() const { return std::get<1>(GetParam()); }
  LogProbOptions options() const {
    return {.temperature = temperature(), .mean_logits = true, .log_sum_squares = true};
  }

  const DeviceBatch batch_ = BatchWithGaps();
  at::Tensor hidden_, weight_, d_log_probs_, rows_, labels_, log_softmax_, mean_logit_;
  Workspace workspace_{at::kCPU};
};

void ExpectNear(const at::Tensor& got, const at::Tensor& want, double tolerance) {
  ASSERT_EQ(got.sizes(), want.sizes());
  EXPECT_LT((got.to(at::kDouble) - want).abs().max().item<double>(), tolerance);
}

TEST_P(LmHeadLogProbsTest, EveryStatisticEqualsFloat64) {
  const TargetLogProbs got = LmHeadLogProbs(hidden_.detach(), head(), batch_, options(),
                                            chunk_rows(), LogProbSlot::kPolicy, workspace_);
  const at::Tensor p = log_softmax_.exp();
  ExpectNear(got.log_probs_M, log_softmax_.gather(1, labels_).squeeze(1), 2e-5);
  ExpectNear(got.entropy_M, -(p * log_softmax_).sum(1), 2e-5);
  ExpectNear(got.mean_logit_M, mean_logit_, 2e-5);
  ExpectNear(got.log_sum_squares_M, at::logsumexp(2 * log_softmax_, {1}), 5e-5);
  EXPECT_TRUE(at::equal(got.correct_M.to(at::kLong),
                        log_softmax_.argmax(1).eq(labels_.squeeze(1)).to(at::kLong)));
}

TEST_P(LmHeadLogProbsTest, GradientEqualsAutogradInFloat64) {
  (log_softmax_.gather(1, labels_).squeeze(1) * d_log_probs_).sum().backward();
  at::Tensor d_hidden = at::full({kTokens, kHidden}, 7.0);
  LmHeadLogProbsBackward(hidden_.detach(), head(), batch_, options(), chunk_rows(), d_log_probs_, {},
                         workspace_, d_hidden);
  ExpectNear(d_hidden, hidden_.grad().to(at::kDouble), 2e-5);
}

TEST_P(LmHeadLogProbsTest, GradientOfEntropiesEqualsAutogradInFloat64) {
  at::manual_seed(4);
  const at::Tensor d_entropy = at::randn({batch_.targets}), entropy = -(log_softmax_.exp() * log_softmax_).sum(1);
  (log_softmax_.gather(1, labels_).squeeze(1) * d_log_probs_ + entropy * d_entropy).sum().backward();
  at::Tensor d_hidden = at::full({kTokens, kHidden}, 7.0);
  LmHeadLogProbsBackward(hidden_.detach(), head(), batch_, options(), chunk_rows(), d_log_probs_, d_entropy,
                         workspace_, d_hidden);
  ExpectNear(d_hidden, hidden_.grad().to(at::kDouble), 3e-5);
}

TEST_P(LmHeadLogProbsTest, SlotsDoNotOverwriteEachOther) {
  const auto compute = [&](const at::Tensor& hidden, LogProbSlot slot) {
    return LmHeadLogProbs(hidden, head(), batch_, options(), chunk_rows(), slot, workspace_)
        .log_probs_M;
  };
  const at::Tensor policy = compute(hidden_.detach(), LogProbSlot::kPolicy), kept = policy.clone();
  const at::Tensor reference = compute(hidden_.detach() * 2, LogProbSlot::kReference);
  EXPECT_TRUE(at::equal(policy, kept));
  EXPECT_FALSE(at::equal(policy, reference));
}

INSTANTIATE_TEST_SUITE_P(ChunksAndTemperatures, LmHeadLogProbsTest,
                         testing::Combine(testing::Values(1, 7, 1000), testing::Values(1.0, 0.7)));

class DecoderLogProbs : public testing::TestWithParam<bool> {
 protected:
  DecoderLogProbs() {
    config_ = bench::Shape("smollm2-135m");
    config_.num_hidden_layers = 2;
    config_.vocab_size = 300;
    config_.hidden_size = 64;
    config_.intermediate_size = 96;
    config_.num_attention_heads = 4;
    config_.num_key_value_heads = 2;
    config_.head_dim = 16;
    base_ = bench::RandomModel(config_, {at::kCPU, at::kFloat, plan::BaseFormat::kNf4});
    adapter_ = std::make_unique<lora::Adapter>(
        config_, lora::Options{.rank = 4, .targets = *lora::ParseTargets({})}, at::kCPU,
        at::kFloat);
    adapter_->parameters().normal_(0, 0.05, at::make_generator<at::CPUGeneratorImpl>(5));
    decoder_ = std::make_unique<Decoder>(*base_, *adapter_,
                                         DecoderOptions{.recompute_activations = GetParam()});
    batch_ = Upload(bench::RandomBatch(config_, 3, 11), at::kCPU);
  }

  c10::InferenceMode no_autograd_;
  format::ModelConfig config_;
  std::shared_ptr<BaseModel> base_;
  std::unique_ptr<lora::Adapter> adapter_;
  std::unique_ptr<Decoder> decoder_;
  DeviceBatch batch_;
};

TEST_P(DecoderLogProbs, WithMinusOneOverTargetsAreTheLossAndItsGradient) {
  const double scale = 1.0 / static_cast<double>(batch_.targets);
  at::Tensor sums = at::zeros({kLossSums}, at::kDouble);
  adapter_->ZeroGradients();
  decoder_->ForwardBackward(batch_, at::full({1}, scale, at::kFloat), 1, 0, sums);
  const at::Tensor wanted = adapter_->gradients().clone();

  adapter_->ZeroGradients();
  const TargetLogProbs got = decoder_->ForwardLogProbs(batch_, {});
  EXPECT_NEAR(-got.log_probs_M.sum().item<double>(), sums[0].item<double>(), 1e-4);
  EXPECT_NEAR(got.entropy_M.sum().item<double>(), sums[1].item<double>(), 1e-4);
  EXPECT_EQ(got.correct_M.sum().item<double>(), sums[2].item<double>());
  decoder_->BackwardLogProbs(batch_, {}, at::full({batch_.targets}, -scale, at::kFloat));
  EXPECT_GT(wanted.abs().max().item<double>(), 0);
  EXPECT_LT((adapter_->gradients() - wanted).abs().max().item<double>(),
            1e-6 * wanted.abs().max().item<double>());
}

TEST_P(DecoderLogProbs, WithoutKeptActivationsAreTheSame) {
  const at::Tensor kept = decoder_->ForwardLogProbs(batch_, {}).log_probs_M.clone();
  EXPECT_TRUE(at::equal(decoder_->LogProbs(batch_, {}, AdapterUse::kOn).log_probs_M, kept));
}

TEST_P(DecoderLogProbs, OfTheReferenceAreThoseOfAnAdapterOfZeros) {
  const at::Tensor adapted = decoder_->LogProbs(batch_, {}, AdapterUse::kOn).log_probs_M;
  const at::Tensor reference = decoder_->LogProbs(batch_, {}, AdapterUse::kOff).log_probs_M;
  EXPECT_GT((adapted - reference).abs().max().item<double>(), 1e-3);
  adapter_->parameters().zero_();
  const at::Tensor zeros = decoder_->LogProbs(batch_, {}, AdapterUse::kOn).log_probs_M;
  EXPECT_LT((zeros - reference).abs().max().item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(RecomputeOffAndOn, DecoderLogProbs, testing::Bool());

}  // namespace
}  // namespace finetuned::model
