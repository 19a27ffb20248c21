#include "kernels/shared_rows.h"

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

TEST(SharedRows, SumIsTheGradientOfTheCopy) {
  // Rows 0 and 1 three times, row 2 not at all.
  const Tensor rows = at::tensor({0, 1, 3, 0, 1, 4, 0, 1}, at::kInt);
  const Tensor offsets = at::tensor({0, 3, 6, 6, 7, 8}, at::kInt), copies = at::tensor({0, 3, 6, 1, 4, 7, 2, 5}, at::kInt);
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    Tensor x = Spread(Normal({5, 12}, 1).to(type), 8).set_requires_grad(true);
    const Tensor d = Spread(Normal({8, 12}, 2).to(type), 4);
    const Tensor plain = x.index_select(0, rows);
    Tensor out = Spread(Poisoned({8, 12}, type), 4), dx = Spread(Poisoned({5, 12}, type), 8);
    CopySharedRows(x.detach(), rows, out);
    EXPECT_TRUE(SameBits(out.contiguous(), plain.detach()));
    plain.backward(d);
    SumSharedRows(d, offsets, copies, dx);
    EXPECT_LT(RelativeError(dx, x.grad()), type == at::kFloat ? 1e-6 : 1e-14) << type;
    EXPECT_EQ(dx[2].abs().max().item<double>(), 0);
  }
}

TEST(SharedRows, AnIndexOutsideTheRowsIsNamed) {
  Tensor out = at::zeros({2, 4});
  try {
    CopySharedRows(at::zeros({3, 4}), at::tensor({0, 3}, at::kInt), out);
    FAIL() << "row 3 of 3 was accepted";
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what()).find("rows[1] is 3, outside the 3 rows"), std::string::npos) << e.what();
  }
  EXPECT_THROW(SumSharedRows(at::zeros({2, 4}), at::tensor({0, 1, 2}, at::kInt), at::tensor({0, 2}, at::kInt), out),
               c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
