#include "kernels/low_rank_gradients.h"

#include <ATen/ATen.h>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

// Of y = s (x A^T) B^T in columns 3..7 and 9..14, autograd gives dB and, as the gradient of u, du.
TEST(LowRankGradients, EqualAutograd) {
  const double scale = 0.75;
  const Tensor dy = Spread(Normal({11, 15}, 1), 4), u = Normal({11, 5}, 2).set_requires_grad(true);
  const Tensor b1 = Normal({4, 2}, 3).set_requires_grad(true), b2 = Normal({5, 3}, 4).set_requires_grad(true);
  const auto through = [&](const Tensor& b, int64_t column, int64_t first) {
    return (u.narrow(1, column, b.size(1)).mm(b.t()) * scale * dy.narrow(1, first, b.size(0))).sum();
  };
  (through(b1, 0, 3) + through(b2, 2, 9)).backward();

  const Tensor before1 = Normal({4, 2}, 5), before2 = Normal({5, 3}, 6);
  Tensor db1 = before1.clone(), db2 = before2.clone(), du = Spread(Poisoned({11, 5}, at::kDouble), 2);
  LowRankGradients(dy, u.detach(), {{b1.detach(), db1, 3}, {b2.detach(), db2, 9}}, scale, 1, {}, du);
  EXPECT_LT(RelativeError(du, u.grad()), 1e-14);
  EXPECT_LT(RelativeError(db1 - before1, b1.grad()), 1e-13);
  EXPECT_LT(RelativeError(db2 - before2, b2.grad()), 1e-13);
}

TEST(LowRankGradients, ErrorsNameTheShapes) {
  Tensor du = at::zeros({2, 3}, at::kDouble), db = at::zeros({4, 3}, at::kDouble);
  const Tensor dy = Normal({2, 6}, 1), u = Normal({2, 3}, 2), b = Normal({4, 3}, 3);
  EXPECT_THROW(LowRankGradients(dy, u, {{b, db, 3}}, 1, 1, {}, du), c10::Error);
  EXPECT_THROW(LowRankGradients(dy, u.narrow(1, 0, 2), {{b, db, 0}}, 1, 1, {}, du), c10::Error);
  EXPECT_THROW(LowRankGradients(dy, u, {{b, db.to(at::kFloat), 0}}, 1, 1, {}, du), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
