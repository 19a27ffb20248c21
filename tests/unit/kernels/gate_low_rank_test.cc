#include "kernels/gate_low_rank.h"

#include <ATen/ATen.h>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

// Of loss = sum(dh * silu(gate) * up) with gate = x_gate + s u_gate B_gate^T, and up likewise, autograd gives all of it.
TEST(GateLowRank, EqualsAutograd) {
  const int64_t T = 11, F = 7;
  const double scale = 0.75;
  const Tensor u = Normal({T, 5}, 1), dh = Normal({T, F}, 2), x = Normal({T, 2 * F}, 3);
  Tensor low = u.clone().set_requires_grad(true);
  const Tensor b_gate = Normal({F, 2}, 4).set_requires_grad(true), b_up = Normal({F, 3}, 5).set_requires_grad(true);
  const Tensor added = at::cat({low.narrow(1, 0, 2).mm(b_gate.t()), low.narrow(1, 2, 3).mm(b_up.t())}, 1) * scale;
  Tensor gate_up = (x + added).detach().set_requires_grad(true);
  (SwigluOracle(gate_up) * dh).sum().backward();
  const Tensor d_gate_up = gate_up.grad();
  (added * d_gate_up).sum().backward();

  const Tensor before_gate = Normal({F, 2}, 6), before_up = Normal({F, 3}, 7);
  Tensor db_gate = before_gate.clone(), db_up = before_up.clone();
  Tensor memory = Spread(gate_up.detach(), 4), du = Spread(Poisoned({T, 5}, at::kDouble), 2);
  const std::vector<LowRankGradientPart> parts = {{b_gate.detach(), db_gate, 0}, {b_up.detach(), db_up, F}};
  GateLowRankBackward(dh, memory, u, parts, scale, 1, {}, du);
  EXPECT_LT(RelativeError(memory, d_gate_up), 1e-13);
  EXPECT_LT(RelativeError(du, low.grad()), 1e-13);
  EXPECT_LT(RelativeError(db_gate - before_gate, b_gate.grad()), 1e-13);
  EXPECT_LT(RelativeError(db_up - before_up, b_up.grad()), 1e-13);
}

TEST(GateLowRank, TheGateIsTheOneAskedFor) {
  const Tensor dh = Normal({3, 4}, 1), x = Normal({3, 8}, 2), u = Normal({3, 2}, 3);
  Tensor db = at::zeros({4, 1}, at::kDouble), db_up = db.clone(), du = Poisoned({3, 2}, at::kDouble);
  Tensor ours = x.clone(), expected = Poisoned({3, 8}, at::kDouble);
  SwigluBackward(dh, x, expected, {}, Gate::kGeluTanh);
  GateLowRankBackward(dh, ours, u, {{Normal({4, 1}, 4), db, 0}, {Normal({4, 1}, 5), db_up, 4}}, 1, 1, {}, du, Gate::kGeluTanh);
  EXPECT_TRUE(SameBits(ours, expected));
}

TEST(GateLowRank, ErrorsNameTheShapes) {
  Tensor x = Normal({3, 8}, 1), du = at::zeros({3, 2}, at::kDouble);
  EXPECT_THROW(GateLowRankBackward(Normal({3, 5}, 2), x, Normal({3, 2}, 3), {}, 1, 1, {}, du), c10::Error);
  EXPECT_THROW(GateLowRankBackward(Normal({2, 4}, 2), x, Normal({3, 2}, 3), {}, 1, 1, {}, du), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
