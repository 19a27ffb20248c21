#include "kernels/gate_low_rank.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

struct Shape {
  int64_t rows, rank, intermediate, splits;
  Gate gate;
  bool fused;
};

class GateLowRankGpu : public GpuTest {
 protected:
  void Run(const Shape& c) {
    const int64_t T = c.rows, F = c.intermediate, R = c.rank;
    const Input dh = FreshInput({T, F}, at::kBFloat16), x = FreshInput({T, 2 * F}, at::kBFloat16);
    const Input u = FreshInput({T, 2 * R}, at::kBFloat16);
    std::vector<Tensor> before;
    std::vector<LowRankGradientPart> truth, ours;
    for (const int64_t first : {int64_t{0}, F}) {
      const Input b = FreshInput({F, R}, at::kBFloat16), db = FreshInput({F, R}, at::kFloat);
      truth.push_back({b.truth, db.truth.clone(), first});
      ours.push_back({b.gpu, db.gpu.clone(), first});
      before.push_back(db.gpu);
    }
    const Tensor u_apart = Spread(u.gpu, 24), scratch = Poisoned({(2 * ((F + 511) / 512) * T + c.splits * 2 * F) * R}, OnGpu(at::kFloat));
    Tensor gate_up = Spread(x.gpu, 32), du = Spread(Poisoned({T, 2 * R}, OnGpu(at::kBFloat16)), 3);
    ASSERT_EQ(GateLowRankFused(dh.gpu, gate_up, u_apart, ours), c.fused);
    GateLowRankBackward(dh.gpu, gate_up, u_apart, ours, 0.7, c.splits, scratch, du, c.gate);

    Tensor expected = Poisoned({T, 2 * F}, OnGpu(at::kBFloat16));
    SwigluBackward(dh.gpu, x.gpu, expected, {}, c.gate);
    EXPECT_TRUE(SameBits(gate_up.contiguous(), expected));
    EXPECT_TRUE(SameBits(gate_up.as_strided({T, 32}, {2 * F + 32, 1}, 2 * F).contiguous(), at::full({T, 32}, 7, OnGpu(at::kBFloat16))));
    Tensor du_truth = Poisoned({T, 2 * R}, at::kDouble);
    const Tensor dy = expected.cpu().to(at::kDouble);
    LowRankGradients(dy, u.truth, truth, 0.7, 1, {}, du_truth);
    EXPECT_LT(RelativeError(du.contiguous(), du_truth), 2 * Floor(at::kBFloat16));
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(RelativeError(ours[i].db_OR, truth[i].db_OR), 1e-4) << i;

    // Again: the same bits, and dB is added to.
    std::vector<Tensor> first_db;
    for (size_t i = 0; i < 2; ++i) {
      first_db.push_back(ours[i].db_OR.clone());
      ours[i].db_OR.copy_(before[i]);
    }
    Tensor again = Spread(x.gpu, 32), du_again = Spread(Poisoned({T, 2 * R}, OnGpu(at::kBFloat16)), 3);
    GateLowRankBackward(dh.gpu, again, u_apart, ours, 0.7, c.splits, scratch, du_again, c.gate);
    EXPECT_TRUE(SameBits(again.contiguous(), expected));
    EXPECT_TRUE(SameBits(du.contiguous(), du_again.contiguous()));
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(SameBits(ours[i].db_OR, first_db[i])) << i;
    again = Spread(x.gpu, 32);
    GateLowRankBackward(dh.gpu, again, u_apart, ours, 0.7, c.splits, scratch, du_again, c.gate);
    LowRankGradients(dy, u.truth, truth, 0.7, 1, {}, du_truth);
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(RelativeError(ours[i].db_OR, truth[i].db_OR), 1e-4) << i;
  }
};

TEST_F(GateLowRankGpu, EqualsTheTwoOps) {
  constexpr Gate kSilu = Gate::kSilu, kGelu = Gate::kGeluTanh;
  const Shape shapes[] = {
      {1, 16, 256, 1, kSilu, true},     {77, 16, 1536, 3, kSilu, true},   {1000, 16, 1536, 7, kGelu, true},
      {333, 32, 768, 5, kSilu, true},   {2048, 32, 1536, 4, kGelu, true}, {4099, 16, 14336, 4, kSilu, true},
      {50, 16, 1536, 8, kSilu, true},   {50, 16, 320, 2, kSilu, false},   {50, 8, 256, 1, kGelu, false},
  };
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(std::to_string(shape.rows) + " rows, rank " + std::to_string(shape.rank) + ", " + std::to_string(shape.intermediate));
    Run(shape);
  }
}

}  // namespace
}  // namespace finetuned::kernels
