// The CPU operations with what families add, against LibTorch and its autograd in float64.
#include "tests/unit/kernels/family_ops_testing.h"

#include "kernels/cross_entropy.h"
#include "kernels/swiglu.h"
#include "kernels/varlen_attention.h"
#include "tests/unit/kernels/decode_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

// Slices of a wider buffer, as the engine has them.
Tensor Sliced(const Tensor& x_THE) {
  Tensor wide = at::full({x_THE.size(0), x_THE.size(1) + 3, x_THE.size(2)}, 7, x_THE.options());
  Tensor part = wide.narrow(1, 2, x_THE.size(1));
  part.copy_(x_THE);
  return part;
}

TEST(HeadNorm, ForwardAndBackwardEqualAutograd) {
  for (const bool center : {false, true}) {
    for (const bool per_head : {false, true}) {
      for (const int64_t E : {6, 16, 1100}) {
        const HeadNormOptions o = {.eps = 1e-5, .center = center};
        const Tensor x = (Normal({5, 3, E}, 1) + 0.5).requires_grad_(), dy = Normal({5, 3, E}, 2);
        const Tensor w = per_head ? Normal({3, E}, 3) : Normal({E}, 3);
        const Tensor expected = HeadNormOracle(x, w, o);
        expected.backward(dy);
        const Tensor in = Sliced(x.detach());
        Tensor y = Sliced(Poisoned(x.sizes(), x.options().requires_grad(false)));
        HeadNormForward(in, w, o, y);
        EXPECT_LT(RelativeError(y, expected.detach()), 1e-12);
        Tensor dx = Sliced(dy);  // in place
        HeadNormBackward(dx, in, w, o, /*accumulate=*/false, dx);
        EXPECT_LT(RelativeError(dx, x.grad()), 1e-10) << center << per_head << E;
        Tensor sum = at::ones_like(dy);
        HeadNormBackward(dy, in, w, o, /*accumulate=*/true, sum);
        EXPECT_LT(RelativeError(sum, x.grad() + 1), 1e-10);
      }
    }
  }
}

TEST(HeadNorm, RefusesOtherShapes) {
  const Tensor x = at::zeros({4, 2, 8});
  Tensor y = at::zeros({4, 2, 8}), flat = at::zeros({4, 16});
  EXPECT_THROW(HeadNormForward(x, at::ones({7}), {}, y), c10::Error);
  EXPECT_THROW(HeadNormForward(x, at::ones({3, 8}), {}, y), c10::Error);
  EXPECT_THROW(HeadNormForward(x, at::ones({8}), {}, flat), c10::Error);
}

TEST(Rope, PartOfAHeadInterleavedAndScaled) {
  const Tensor positions = at::tensor({0, 1, 9, 300}, at::kInt);
  for (const RopeOptions& o : {RopeOptions{}, RopeOptions{true, 1.0}, RopeOptions{false, 1.3}, RopeOptions{true, 0.7}}) {
    for (const int64_t rotated : {16, 12}) {
      const Tensor inv_freq = LlamaInvFreq(rotated);
      const Tensor x = Normal({4, 3, 16}, 1).requires_grad_(), dy = Normal({4, 3, 16}, 2);
      const Tensor expected = RotateOracle(x, positions, inv_freq, o);
      expected.backward(dy);
      Tensor y = Sliced(x.detach());
      RopeInPlace(y, positions, inv_freq, +1, o);
      EXPECT_LT(RelativeError(y, expected.detach()), 1e-6);
      Tensor dx = Sliced(dy);
      RopeInPlace(dx, positions, inv_freq, -1, o);
      EXPECT_LT(RelativeError(dx, x.grad()), 1e-6);
    }
  }
}

TEST(Swiglu, GeluGateEqualsAutograd) {
  const Tensor x = (Normal({5, 22}, 1) * 3).requires_grad_(), dh = Normal({5, 11}, 2);
  const Tensor expected = at::gelu(x.narrow(1, 0, 11), "tanh") * x.narrow(1, 11, 11);
  expected.backward(dh);
  Tensor h = Poisoned({5, 11}, dh.options()), dx = Poisoned({5, 22}, dh.options()), again = dh.clone();
  SwigluForward(x.detach(), h, Gate::kGeluTanh);
  EXPECT_LT(RelativeError(h, expected.detach()), 1e-12);
  SwigluBackward(again, x.detach(), dx, again, Gate::kGeluTanh);
  EXPECT_LT(RelativeError(dx, x.grad()), 1e-10);
  EXPECT_LT(RelativeError(again, expected.detach()), 1e-12);
}

TEST(VarlenAttention, WindowAndSoftcapEqualAutograd) {
  const std::vector<int32_t> cu = {0, 3, 150, 151, 420};
  const Tensor bounds = at::tensor(cu, at::kInt);
  for (const ScoreOptions& o : {ScoreOptions{0.3, 1, 0}, ScoreOptions{0.3, 130, 0}, ScoreOptions{0.3, 0, 2.0},
                                ScoreOptions{0.3, 7, 2.0}}) {
    const Tensor q = Normal({420, 4, 16}, 1).requires_grad_(), k = Normal({420, 2, 16}, 2).requires_grad_();
    const Tensor v = Normal({420, 2, 16}, 3).requires_grad_(), dout = Normal({420, 4, 16}, 4);
    const Tensor expected = ScoredAttentionOracle(q, k, v, cu, o);
    expected.backward(dout);
    Tensor out, lse, dq, dk, dv;
    VarlenAttentionForward(q.detach(), k.detach(), v.detach(), bounds, cu, 269, o, out, lse);
    EXPECT_LT(RelativeError(out, expected.detach()), 1e-10);
    VarlenAttentionBackward(dout, q.detach(), k.detach(), v.detach(), out, lse, bounds, cu, 269, o, dq, dk, dv, false);
    // Of one key the probability is 1 and q and k have no gradient: differences, not shares.
    const auto error = [](const Tensor& got, const Tensor& wanted) { return (got - wanted).abs().max().item<double>(); };
    EXPECT_LT(error(dq, q.grad()), 1e-9) << o.window << " " << o.softcap;
    EXPECT_LT(error(dk, k.grad()), 1e-9);
    EXPECT_LT(error(dv, v.grad()), 1e-9);
  }
}

TEST(PagedAttention, WindowAndSoftcapEqualTheWholeSequence) {
  const PagedFixture f({1, 15, 17, 70}, 4, 2, 16, at::kDouble, 5);
  for (const int64_t window : {0, 1, 9, 40}) {
    for (const double softcap : {0.0, 1.5}) {
      const ScoreOptions o = {1 / std::sqrt(16.0), window, softcap};
      const Tensor all = ScoredAttentionOracle(f.q_THE, f.k_TKE, f.v_TKE, f.cu, o);
      EXPECT_LT(RelativeError(f.Attend(at::kDouble, at::kCPU, 1, window, softcap), all.index_select(0, f.LastRows())), 1e-6);
    }
  }
}

TEST(CrossEntropy, SoftcapEqualsAutograd) {
  const double cap = 2.5;
  const Tensor x = (Normal({4, 37}, 1) * 4).requires_grad_(), labels = at::tensor({3, -100, 0, 36}, at::kInt);
  const Tensor log_p = ((x / cap).tanh() * cap).log_softmax(1);
  const Tensor rows = at::tensor({0, 2, 3}), kept = at::tensor({3, 0, 36});
  const Tensor loss = -log_p.index({rows, kept}), all_entropy = -(log_p.exp() * log_p).sum(1);
  const Tensor d_entropy = at::tensor({0.5, 0.0, -0.25, 1.0});  // a row without a label has no gradient
  (loss.sum() + (d_entropy * all_entropy).sum()).backward();
  Tensor got = at::empty({4}, at::kFloat), entropy = at::empty({4}, at::kFloat), gradient = x.detach().clone();
  CrossEntropyChunk(gradient, labels, at::ones({1}), 0, /*write_grad=*/true, got, entropy, {}, false,
                    d_entropy.to(at::kFloat), cap);
  EXPECT_LT(RelativeError(got.index_select(0, rows), loss.detach()), 1e-6);
  EXPECT_LT(RelativeError(entropy, all_entropy.detach()), 1e-6);
  EXPECT_LT(RelativeError(gradient, x.grad()), 1e-10);
}

}  // namespace
}  // namespace finetuned::kernels
