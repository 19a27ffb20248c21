#include "kernels/rms_norm.h"

#include "kernels/rms_norm_params.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

struct Norm {
  Tensor y, rstd, dx;
};

Norm Compute(const Tensor& x, const Tensor& w, const Tensor& dy, double eps) {
  Norm r = {Poisoned(x.sizes(), x.options()), Poisoned({x.size(0)}, x.options()),
            Poisoned(x.sizes(), x.options())};
  RmsNormForward(x, w, eps, r.y, r.rstd);
  RmsNormBackward(dy, x, w, r.rstd, false, r.dx);
  return r;
}

TEST(RmsNorm, EqualsAutograd) {
  for (auto [T, D] : std::vector<std::pair<int64_t, int64_t>>{{1, 8}, {257, 576}, {3, 4096}}) {
    const Tensor x = Normal({T, D}, 1).requires_grad_(), w = Normal({D}, 2), dy = Normal({T, D}, 3);
    const Tensor y = RmsNormOracle(x, w, 1e-5);
    y.backward(dy);
    const Norm in_double = Compute(x.detach(), w, dy, 1e-5);
    EXPECT_LT(RelativeError(in_double.y, y), 1e-13);
    EXPECT_LT(RelativeError(in_double.dx, x.grad()), 1e-12);
    const Norm in_float =
        Compute(x.detach().to(at::kFloat), w.to(at::kFloat), dy.to(at::kFloat), 1e-5);
    EXPECT_LT(RelativeError(in_float.y, y), 1e-6);
    EXPECT_LT(RelativeError(in_float.dx, x.grad()), 1e-6);
  }
}

TEST(RmsNorm, AddWritesTheResidualAndNormalizesIt) {
  Tensor residual = Normal({7, 64}, 1).to(at::kFloat);
  const Tensor delta = Normal({7, 64}, 2).to(at::kFloat), w = Normal({64}, 3).to(at::kFloat);
  const Tensor sum = residual + delta;
  Tensor y = Poisoned({7, 64}, at::kFloat), rstd = Poisoned({7}, at::kFloat);
  Tensor y2 = y.clone(), rstd2 = rstd.clone();
  AddRmsNormForward(residual, delta, w, 1e-6, residual, y, rstd);
  RmsNormForward(sum, w, 1e-6, y2, rstd2);
  EXPECT_TRUE(SameBits(residual, sum));
  EXPECT_TRUE(SameBits(y, y2));
  EXPECT_TRUE(SameBits(rstd, rstd2));
}

TEST(RmsNorm, BackwardAccumulatesAndWorksInPlace) {
  const Tensor x = Normal({5, 96}, 1), w = Normal({96}, 2), dy = Normal({5, 96}, 3);
  const Norm r = Compute(x, w, dy, 1e-6);
  Tensor dx = Normal({5, 96}, 4);
  const Tensor before = dx.clone();
  RmsNormBackward(dy, x, w, r.rstd, true, dx);
  EXPECT_LT(RelativeError(dx, before + r.dx), 1e-14);
  Tensor in_place = dy.clone();
  RmsNormBackward(in_place, x, w, r.rstd, false, in_place);
  EXPECT_TRUE(SameBits(in_place, r.dx));
}

TEST(RmsNorm, NoTokensIsNoWork) {
  Tensor y = at::empty({0, 8}, at::kFloat), rstd = at::empty({0}, at::kFloat);
  RmsNormForward(y, at::ones({8}), 1e-6, y, rstd);
}

TEST(RmsNorm, TileCoversTheRow) {
  for (int64_t bytes : {2, 4}) {
    for (int64_t D : {8, 64, 576, 896, 1024, 2048, 4096, 5120, 8192, 16384, 65536}) {
      const RmsNormTile tile = ChooseRmsNormTile(D, bytes, true);
      if (tile.vectors > 0) {
        EXPECT_GE(int64_t{tile.threads} * tile.vectors * 16, D * bytes) << D;
      } else {
        EXPECT_GT(D * bytes, 256 * 4 * 16) << D;
      }
    }
  }
  EXPECT_EQ(ChooseRmsNormTile(576, 2, false).vectors, 0);
  EXPECT_EQ(ChooseRmsNormTile(577, 2, true).vectors, 0);
  EXPECT_EQ(ChooseRmsNormTile(576, 2, true).threads, 32);
}

TEST(RmsNorm, ErrorsNameTheTensor) {
  Tensor x = at::zeros({2, 8}), y = at::zeros({2, 7}), rstd = at::zeros({2});
  try {
    RmsNormForward(x, at::ones({8}), 1e-6, y, rstd);
    FAIL() << "a wrong shape was accepted";
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what()).find("RmsNormForward: y has shape [2, 7]"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace finetuned::kernels
