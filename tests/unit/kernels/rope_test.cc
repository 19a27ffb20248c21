#include "kernels/rope.h"

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(Rope, EqualsTheHuggingFaceFormula) {
  const Tensor positions = Positions({0, 1, 258, 300}), inv_freq = LlamaInvFreq(64);
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (int sign : {1, -1}) {
      Tensor x = Normal({300, 9, 64}, 1).to(type);
      const Tensor expected = RopeOracle(x, positions, inv_freq, sign);
      RopeInPlace(x, positions, inv_freq, sign);
      EXPECT_LT(RelativeError(x, expected), 3e-7) << sign;
    }
  }
}

TEST(Rope, BackwardIsTheInverseRotation) {
  const Tensor positions = Positions({0, 40}), inv_freq = LlamaInvFreq(32);
  const Tensor x = Normal({40, 3, 32}, 1).requires_grad_(), dy = Normal({40, 3, 32}, 2);
  RopeOracle(x, positions, inv_freq, 1).backward(dy);
  Tensor dx = dy.clone();
  RopeInPlace(dx, positions, inv_freq, -1);
  EXPECT_LT(RelativeError(dx, x.grad()), 1e-7);
}

TEST(Rope, RotatesASliceOfFusedQkvAndNothingElse) {
  const Tensor positions = Positions({0, 12}), inv_freq = LlamaInvFreq(16);
  Tensor fused = Normal({12, 7, 16}, 1).to(at::kFloat);
  const Tensor before = fused.clone();
  Tensor k = fused.narrow(1, 4, 2);
  RopeInPlace(k, positions, inv_freq, 1);
  EXPECT_LT(RelativeError(k, RopeOracle(before.narrow(1, 4, 2), positions, inv_freq, 1)), 1e-6);
  EXPECT_TRUE(SameBits(fused.narrow(1, 0, 4), before.narrow(1, 0, 4)));
  EXPECT_TRUE(SameBits(fused.narrow(1, 6, 1), before.narrow(1, 6, 1)));
}

TEST(Rope, RefusesOtherStrides) {
  Tensor x = at::zeros({4, 6, 8}).transpose(0, 1);
  EXPECT_THROW(RopeInPlace(x, at::zeros({6}, at::kInt), at::ones({4}), 1), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
