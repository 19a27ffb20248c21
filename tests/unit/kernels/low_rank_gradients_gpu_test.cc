#include "kernels/low_rank_gradients.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

struct Shape {
  int64_t rows, rank;
  std::vector<int64_t> widths;
  int64_t splits;
  bool fused;
};

class LowRankGradientsGpu : public GpuTest {
 protected:
  // Parts lie one after another behind 64 columns that belong to none.
  void Run(const Shape& c) {
    int64_t first = 64, groups = 0, width = 0;
    std::vector<LowRankGradientPart> truth, ours;
    for (const int64_t w : c.widths) {
      const Input b = FreshInput({w, c.rank}, at::kBFloat16), db = FreshInput({w, c.rank}, at::kFloat);
      truth.push_back({b.truth, db.truth.clone(), first});
      ours.push_back({b.gpu, db.gpu, first});
      first += w;
      width += w;
      groups += (w + 511) / 512;
    }
    const int64_t ranks = c.rank * static_cast<int64_t>(c.widths.size());
    const Input dy = FreshInput({c.rows, first}, at::kBFloat16), u = FreshInput({c.rows, ranks}, at::kBFloat16);
    const Tensor dy_apart = Spread(dy.gpu, 8), u_apart = Spread(u.gpu, 24);
    ASSERT_EQ(LowRankGradientsFused(dy_apart, ours), c.fused);
    const Tensor scratch = Poisoned({(groups * c.rows + c.splits * width) * c.rank}, OnGpu(at::kFloat));
    Tensor du_truth = Poisoned({c.rows, ranks}, at::kDouble), du = Spread(Poisoned({c.rows, ranks}, OnGpu(at::kBFloat16)), 3);
    std::vector<Tensor> before;
    for (const LowRankGradientPart& part : ours) before.push_back(part.db_OR.clone());
    LowRankGradients(dy.truth, u.truth, truth, 0.7, 1, {}, du_truth);
    LowRankGradients(dy_apart, u_apart, ours, 0.7, c.splits, scratch, du);
    EXPECT_LT(RelativeError(du.contiguous(), du_truth), 2 * Floor(at::kBFloat16));
    for (size_t i = 0; i < ours.size(); ++i) EXPECT_LT(RelativeError(ours[i].db_OR, truth[i].db_OR), 1e-4) << i;
    // Again: the same bits.
    Tensor du_again = Spread(Poisoned({c.rows, ranks}, OnGpu(at::kBFloat16)), 3);
    std::vector<Tensor> first_db;
    for (size_t i = 0; i < ours.size(); ++i) {
      first_db.push_back(ours[i].db_OR.clone());
      ours[i].db_OR.copy_(before[i]);
    }
    LowRankGradients(dy_apart, u_apart, ours, 0.7, c.splits, scratch, du_again);
    EXPECT_TRUE(SameBits(du.contiguous(), du_again.contiguous()));
    for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(SameBits(ours[i].db_OR, first_db[i])) << i;
  }
};

TEST_F(LowRankGradientsGpu, EqualTheCpu) {
  const Shape shapes[] = {
      {1, 16, {64}, 1, true},           {77, 16, {576, 192, 192}, 5, true}, {1000, 16, {1536, 1536}, 7, true},
      {2048, 32, {4096, 1024, 1024}, 22, true}, {333, 32, {576}, 3, true},  {4099, 16, {14336, 14336}, 4, true},
      {50, 8, {576, 192}, 1, false},    {50, 16, {100}, 1, false},
  };
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(std::to_string(shape.rows) + " rows, rank " + std::to_string(shape.rank) + ", " + std::to_string(shape.widths[0]));
    Run(shape);
  }
}

}  // namespace
}  // namespace finetuned::kernels
