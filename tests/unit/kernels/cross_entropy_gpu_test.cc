#include "kernels/cross_entropy.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class CrossEntropyGpu : public GpuTest {};

struct Result {
  Tensor loss, grad, entropy, correct;
};

Result Compute(const Tensor& logits, const Tensor& labels, const Tensor& scale, double smoothing,
               bool extras) {
  const int64_t C = logits.size(0);
  const at::TensorOptions on = at::device(logits.device());
  Result r = {Poisoned({C}, on.dtype(at::kFloat)), logits.clone(), {}, {}};
  if (extras) {
    r.entropy = Poisoned({C}, on.dtype(at::kFloat));
    r.correct = Poisoned({C}, on.dtype(at::kByte));
  }
  CrossEntropyChunk(r.grad, labels, scale, smoothing, true, r.loss, r.entropy, r.correct);
  return r;
}

// Every third label is the largest logit, every seventh is ignored.
Tensor Labels(const Tensor& logits) {
  Tensor labels = at::arange(logits.size(0), at::kInt) * 7919 % logits.size(1);
  const Tensor top = logits.argmax(1).to(at::kInt);
  for (int64_t c = 0; c < logits.size(0); ++c) {
    if (c % 3 == 0) labels[c] = top[c];
    if (c % 7 == 6) labels[c] = kIgnoredLabel;
  }
  return labels;
}

// Losses and entropies of peaked rows are small differences of large terms, so the error counts in nats
// below one nat and relative above.
void ExpectNats(const Tensor& ours, const Tensor& truth, double tolerance) {
  const Tensor error = (ours.cpu().to(at::kDouble) - truth).abs();
  const double size = std::max(1.0, truth.abs().max().item<double>());
  EXPECT_LT(error.max().item<double>(), tolerance * size) << ours.sizes();
}

void Check(int64_t C, int64_t V, at::ScalarType type, double smoothing, bool extras) {
  const Input x = FreshInput({C, V}, type, 4);
  const Tensor labels = Labels(x.truth);
  const Tensor scale =
      C % 2 == 0 ? at::full({1}, 0.01, at::kFloat) : Normal({C}, FreshSeed()).to(at::kFloat);
  const Result truth = Compute(x.truth, labels, scale, smoothing, true);
  Tensor leaf = x.gpu.clone().requires_grad_();
  const Tensor losses = at::cross_entropy_loss(leaf, labels.cuda().to(at::kLong), {},
                                               at::Reduction::None, kIgnoredLabel, smoothing);
  (losses.to(at::kFloat) * scale.cuda()).sum().backward();
  const Result ours = Compute(x.gpu, labels.cuda(), scale.cuda(), smoothing, extras);
  ExpectNats(ours.loss, truth.loss, 1e-5);
  // A probability next to 1 is known to a few units of 2^-24; where all gradients of a row are small, that counts.
  const double rounding = 4 * 0x1p-24 * scale.abs().max().item<double>();
  const double largest = std::max(truth.grad.abs().max().item<double>(), 1e-30);
  ExpectWithin("CrossEntropy gradient", ours.grad, leaf.grad(), truth.grad,
               Floor(type) + rounding / largest);
  if (!extras) return;
  ExpectNats(ours.entropy, truth.entropy, 2e-5);
  EXPECT_TRUE(SameBits(ours.correct, truth.correct)) << C << "x" << V << " " << type;
}

TEST_F(CrossEntropyGpu, EqualsTheTruth) {
  for (at::ScalarType type : kGpuTypes) {
    for (auto [C, V] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 5}, {257, 1000}, {10, 49152}, {9, 128257}, {3, 17}}) {
      for (double smoothing : {0.0, 0.1}) {
        for (bool extras : {false, true}) Check(C, V, type, smoothing, extras);
      }
    }
  }
}

TEST_F(CrossEntropyGpu, GradientOfTheEntropyEqualsTheTruth) {
  for (auto [C, V] : std::vector<std::pair<int64_t, int64_t>>{{1, 5}, {257, 1000}, {9, 49152}}) {
    const Input x = FreshInput({C, V}, at::kFloat, 3);
    const Tensor labels = Labels(x.truth), scale = Normal({C}, FreshSeed()).to(at::kFloat),
                 d_entropy = Normal({C}, FreshSeed()).to(at::kFloat);
    const auto run = [&](Tensor logits, bool narrow) {
      const auto there = [&](const Tensor& t) { return t.to(logits.device()); };
      Tensor loss = there(at::empty({C})), entropy = there(at::empty({C}));
      CrossEntropyChunk(logits, there(labels), there(scale), 0, true, loss, entropy, {}, narrow, there(d_entropy));
      return narrow ? NarrowGradient(logits).contiguous() : logits;
    };
    const Tensor truth = run(x.truth.clone(), false);
    EXPECT_LT(RelativeError(run(x.gpu.clone(), false), truth), 1e-5) << V;
    EXPECT_LT(RelativeError(run(x.gpu.clone(), true), truth), 1.0 / 128) << V;
  }
}

TEST_F(CrossEntropyGpu, WithoutGradientLogitsStay) {
  for (at::ScalarType type : kGpuTypes) {
    Tensor x = FreshInput({5, 3001}, type).gpu, loss = Poisoned({5}, OnGpu(at::kFloat));
    const Tensor before = x.clone();
    CrossEntropyChunk(x, at::arange(5, at::kInt).cuda(), at::ones({1}).cuda(), 0, false, loss);
    EXPECT_TRUE(SameBits(x, before));
    EXPECT_TRUE(loss.isfinite().all().item<bool>());
  }
}

TEST_F(CrossEntropyGpu, IgnoredRowsBecomeZeroAndWrongLabelsShow) {
  for (at::ScalarType type : kGpuTypes) {
    Tensor x = Poisoned({3, 1001}, OnGpu(type)), loss = Poisoned({3}, OnGpu(at::kFloat));
    x[1].fill_(1.0);
    const Tensor labels = at::tensor({kIgnoredLabel, 1001, kIgnoredLabel}, at::kInt).cuda();
    CrossEntropyChunk(x, labels, at::ones({1}).cuda(), 0, true, loss);
    EXPECT_TRUE(SameBits(x, at::zeros({3, 1001}, OnGpu(type))));
    EXPECT_EQ(loss[0].item<float>(), 0.0f);
    EXPECT_TRUE(std::isnan(loss[1].item<float>()));
  }
}

TEST_F(CrossEntropyGpu, InfiniteLogitsHaveNoShare) {
  const float inf = std::numeric_limits<float>::infinity();
  Tensor x = at::full({2, 4000}, -inf, OnGpu(at::kFloat));
  x.narrow(1, 100, 2).fill_(3.0);
  Tensor loss = Poisoned({2}, OnGpu(at::kFloat)), entropy = Poisoned({2}, OnGpu(at::kFloat));
  CrossEntropyChunk(x, at::tensor({100, 101}, at::kInt).cuda(), at::ones({1}).cuda(), 0, true, loss,
                    entropy);
  EXPECT_LT(RelativeError(loss, at::full({2}, std::log(2.0))), 1e-6);
  EXPECT_LT(RelativeError(entropy, at::full({2}, std::log(2.0))), 1e-5);
  EXPECT_TRUE(x.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace finetuned::kernels
