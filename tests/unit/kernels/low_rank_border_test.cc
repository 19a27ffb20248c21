#include "kernels/low_rank_border.h"

#include <ATen/ATen.h>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

// Rows 0..4 and 7..9 of a 9 x 6 weight are adapted, with ranks 2 and 3.
struct Case {
  Tensor w = Normal({9, 6}, 1), a = Normal({5, 6}, 2);
  Tensor b1 = Normal({4, 2}, 3), b2 = Normal({2, 3}, 4);
  double scale = 0.75;

  Tensor Extended(bool with_a) const {
    Tensor extended = Spread(at::full({14, 11}, 7.0, at::kDouble), 5);
    extended.narrow(0, 0, 9).narrow(1, 0, 6).copy_(w);
    WriteLowRankBorder(extended, a, {{b1, 0}, {b2, 7}}, scale, with_a);
    return extended;
  }
};

TEST(LowRankBorder, OneProductAppliesWeightAndAdapter) {
  const Case c;
  const Tensor extended = c.Extended(true), x = Normal({5, 6}, 5);
  const Tensor u = x.mm(c.a.t());
  Tensor expected = x.mm(c.w.t());
  expected.narrow(1, 0, 4).add_(u.narrow(1, 0, 2).mm(c.b1.t()), c.scale);
  expected.narrow(1, 7, 2).add_(u.narrow(1, 2, 3).mm(c.b2.t()), c.scale);
  EXPECT_LT(RelativeError(at::cat({x, u}, 1).mm(extended.narrow(0, 0, 9).t()), expected), 1e-14);

  const Tensor dy = Normal({5, 9}, 6);
  const Tensor du = dy.mm(extended.narrow(0, 0, 9).narrow(1, 6, 5));
  Tensor dx = dy.mm(c.w);
  dx.add_(dy.narrow(1, 0, 4).mm(c.b1).mm(c.a.narrow(0, 0, 2)), c.scale);
  dx.add_(dy.narrow(1, 7, 2).mm(c.b2).mm(c.a.narrow(0, 2, 3)), c.scale);
  EXPECT_LT(RelativeError(at::cat({dy, du}, 1).mm(extended.narrow(1, 0, 6)), dx), 1e-14);
}

TEST(LowRankBorder, WritesTheBorderAlone) {
  const Case c;
  const Tensor extended = c.Extended(false);
  EXPECT_TRUE(SameBits(extended.narrow(0, 0, 9).narrow(1, 0, 6).contiguous(), c.w));
  EXPECT_TRUE(extended.narrow(0, 9, 5).eq(7.0).all().item<bool>()) << "the rows of A were not asked for";
  EXPECT_TRUE(extended.narrow(0, 4, 3).narrow(1, 6, 5).eq(0.0).all().item<bool>());
}

TEST(LowRankBorder, ErrorsNameTheShapes) {
  const Case c;
  Tensor extended = at::zeros({14, 11}, at::kDouble);
  EXPECT_THROW(WriteLowRankBorder(extended, c.a, {{c.b1, 0}}, 1, true), c10::Error);
  EXPECT_THROW(WriteLowRankBorder(extended, c.a, {{c.b1, 0}, {c.b2, 8}}, 1, true), c10::Error);
  Tensor small = at::zeros({13, 11}, at::kDouble).narrow(1, 0, 10);
  EXPECT_THROW(WriteLowRankBorder(small, c.a, {{c.b1, 0}, {c.b2, 7}}, 1, true), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
