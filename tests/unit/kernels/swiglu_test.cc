#include "kernels/swiglu.h"

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(Swiglu, EqualsAutograd) {
  for (auto [T, F] : std::vector<std::pair<int64_t, int64_t>>{{1, 3}, {257, 1536}}) {
    const Tensor x = (Normal({T, 2 * F}, 1) * 4).requires_grad_(), dh = Normal({T, F}, 2);
    const Tensor expected = SwigluOracle(x);
    expected.backward(dh);
    for (at::ScalarType type : {at::kFloat, at::kDouble}) {
      const double tolerance = type == at::kFloat ? 1e-6 : 1e-13;
      const Tensor gate_up = x.detach().to(type);
      Tensor h = Poisoned({T, F}, type), d = Poisoned({T, 2 * F}, type);
      SwigluForward(gate_up, h);
      SwigluBackward(dh.to(type), gate_up, d);
      EXPECT_LT(RelativeError(h, expected), tolerance);
      EXPECT_LT(RelativeError(d, x.grad()), tolerance);
    }
  }
}

TEST(Swiglu, BackwardInPlaceRewritesHOverItsGradient) {
  const Tensor x = Normal({33, 40}, 1).to(at::kFloat), dh = Normal({33, 20}, 2).to(at::kFloat);
  Tensor h = Poisoned({33, 20}, at::kFloat), d = Poisoned({33, 40}, at::kFloat);
  SwigluForward(x, h);
  SwigluBackward(dh, x, d);
  Tensor memory = x.clone(), dh_then_h = dh.clone();
  SwigluBackward(dh_then_h, memory, memory, dh_then_h);
  EXPECT_TRUE(SameBits(memory, d));
  EXPECT_TRUE(SameBits(dh_then_h, h));
}

TEST(Swiglu, RowsMayLieApart) {
  const Tensor x = Normal({33, 40}, 1).to(at::kFloat), dh = Normal({33, 20}, 2).to(at::kFloat);
  Tensor h = Poisoned({33, 20}, at::kFloat), d = Poisoned({33, 40}, at::kFloat);
  SwigluForward(x, h);
  SwigluBackward(dh, x, d);
  const Tensor apart = Spread(x, 3);
  Tensor h_apart = Spread(h.mul(0), 5), d_apart = apart;
  SwigluForward(apart, h_apart);
  SwigluBackward(dh, apart, d_apart);
  EXPECT_TRUE(SameBits(h_apart.contiguous(), h));
  EXPECT_TRUE(SameBits(d_apart.contiguous(), d));
}

TEST(Swiglu, LargeGatesSaturate) {
  const Tensor x = at::tensor({-1e4f, -90.0f, 90.0f, 1e4f, 1.0f, 1.0f, 1.0f, 1.0f}).view({1, 8});
  Tensor h = Poisoned({1, 4}, at::kFloat);
  SwigluForward(x, h);
  EXPECT_LT(RelativeError(h, at::tensor({0.0f, 0.0f, 90.0f, 1e4f}).view({1, 4})), 1e-6);
}

}  // namespace
}  // namespace finetuned::kernels
