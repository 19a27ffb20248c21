#include "kernels/cross_entropy.h"

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

struct Result {
  Tensor loss, grad, entropy, correct;
};

Result Compute(const Tensor& logits, const Tensor& labels, const Tensor& scale, double smoothing) {
  const int64_t C = logits.size(0);
  Result r = {Poisoned({C}, at::kFloat), logits.clone(), Poisoned({C}, at::kFloat),
              Poisoned({C}, at::kByte)};
  CrossEntropyChunk(r.grad, labels, scale, smoothing, true, r.loss, r.entropy, r.correct);
  return r;
}

Tensor Labels(int64_t C, int64_t V) {
  Tensor labels = at::arange(C, at::kInt) * 7919 % V;
  labels[C / 2] = kIgnoredLabel;
  return labels;
}

TEST(CrossEntropy, EqualsAutograd) {
  for (auto [C, V] : std::vector<std::pair<int64_t, int64_t>>{{1, 5}, {37, 4099}, {4, 49152}}) {
    for (double smoothing : {0.0, 0.1}) {
      const Tensor x = (Normal({C, V}, 1) * 3).requires_grad_();
      const Tensor labels = C == 1 ? at::zeros({1}, at::kInt) : Labels(C, V);
      const Tensor losses = at::cross_entropy_loss(x, labels.to(at::kLong), {}, at::Reduction::None,
                                                   kIgnoredLabel, smoothing);
      const Tensor scale = at::full({1}, 0.125, at::kFloat);
      (losses * 0.125).sum().backward();
      const Tensor log_p = x.detach().log_softmax(1);
      const Tensor entropy = -(log_p.exp() * log_p).sum(1);
      for (at::ScalarType type : {at::kFloat, at::kDouble}) {
        const Result r = Compute(x.detach().to(type), labels, scale, smoothing);
        EXPECT_LT(RelativeError(r.loss, losses), 1e-6);
        EXPECT_LT(RelativeError(r.entropy, entropy), 2e-6);
        EXPECT_LT(RelativeError(r.grad, x.grad()), type == at::kFloat ? 1e-6 : 1e-12);
        EXPECT_TRUE(r.correct.to(at::kBool).equal(x.detach().argmax(1).eq(labels)));
      }
    }
  }
}

TEST(CrossEntropy, GradientOfTheEntropyEqualsAutograd) {
  for (auto [C, V] : std::vector<std::pair<int64_t, int64_t>>{{1, 5}, {37, 4099}}) {
    const Tensor x = (Normal({C, V}, 1) * 3).requires_grad_();
    const Tensor labels = C == 1 ? at::zeros({1}, at::kInt) : Labels(C, V);
    const Tensor counts = labels.ge(0).to(at::kDouble), scale = Normal({C}, 2), d_entropy = Normal({C}, 3);
    const Tensor log_p = x.log_softmax(1), entropy = -(log_p.exp() * log_p).sum(1);
    const Tensor losses = at::cross_entropy_loss(x, labels.to(at::kLong), {}, at::Reduction::None, kIgnoredLabel, 0);
    (losses * scale + entropy * d_entropy * counts).sum().backward();
    for (at::ScalarType type : {at::kFloat, at::kDouble}) {
      Tensor grad = x.detach().to(type), loss = Poisoned({C}, at::kFloat), h = Poisoned({C}, at::kFloat);
      CrossEntropyChunk(grad, labels, scale.to(at::kFloat), 0, true, loss, h, {}, false, d_entropy.to(at::kFloat));
      EXPECT_LT(RelativeError(grad, x.grad()), 3e-6) << type;  // weights are float32
      EXPECT_LT(RelativeError(h, entropy), 2e-6);
    }
  }
}

TEST(CrossEntropy, ScalePerRow) {
  const Tensor x = Normal({6, 50}, 1), labels = at::arange(6, at::kInt);
  const Tensor one = Compute(x, labels, at::ones({1}, at::kFloat), 0).grad;
  const Tensor scale = at::arange(6, at::kFloat) - 2;
  const Tensor each = Compute(x, labels, scale, 0).grad;
  EXPECT_LT(RelativeError(each, one * scale.unsqueeze(1)), 1e-12);
}

TEST(CrossEntropy, WithoutGradientLogitsStay) {
  Tensor x = Normal({3, 20}, 1).to(at::kFloat), loss = Poisoned({3}, at::kFloat);
  const Tensor before = x.clone(), labels = at::tensor({1, kIgnoredLabel, 3}, at::kInt);
  CrossEntropyChunk(x, labels, at::ones({1}), 0, false, loss);
  EXPECT_TRUE(SameBits(x, before));
  EXPECT_EQ(loss[1].item<float>(), 0.0f);
  EXPECT_FALSE(loss.isnan().any().item<bool>());
}

TEST(CrossEntropy, IgnoredRowsBecomeZeroWhateverTheyHeld) {
  Tensor x = Poisoned({2, 9}, at::kFloat), loss = Poisoned({2}, at::kFloat);
  const Tensor labels = at::full({2}, kIgnoredLabel, at::kInt);
  CrossEntropyChunk(x, labels, at::ones({1}), 0, true, loss);
  EXPECT_TRUE(SameBits(x, at::zeros({2, 9})));
  EXPECT_TRUE(SameBits(loss, at::zeros({2})));
}

TEST(CrossEntropy, HugeAndInfiniteLogits) {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x = at::tensor({1e4f, -1e4f, -inf, 9.99e3f}).view({1, 4});
  const Result r = Compute(x, at::zeros({1}, at::kInt), at::ones({1}), 0);
  EXPECT_NEAR(r.loss.item<float>(), 4.54e-5, 1e-7);
  EXPECT_TRUE(r.grad.isfinite().all().item<bool>());
  EXPECT_TRUE(r.entropy.isfinite().all().item<bool>());
}

TEST(CrossEntropy, LabelOutsideTheVocabularyIsNamed) {
  Tensor x = at::zeros({2, 9}), loss = at::zeros({2});
  try {
    CrossEntropyChunk(x, at::tensor({1, 9}, at::kInt), at::ones({1}), 0, true, loss);
    FAIL() << "label 9 of 9 was accepted";
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what()).find("label 9 of row 1"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace finetuned::kernels
