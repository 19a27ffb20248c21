// 8-bit codes on the CPU: against LibTorch's own conversions and products.
#include "kernels/codes8.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/kernels/kernel_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

const std::vector<at::ScalarType> kCodeTypes = {at::kFloat8_e4m3fn, at::kChar};

// Rounded to codes by LibTorch.
Tensor Rounded(const Tensor& x, at::ScalarType codes) {
  const float limit = Codes8Limit(codes);
  const Tensor bounded = x.clamp(-limit, limit);
  return (codes == at::kChar ? bounded.round() : bounded).to(codes);
}

TEST(Codes8, RowsAreScaledToTheLimitAndRoundedToTheNearestCode) {
  Tensor x = Normal({5, 48}, 1).to(at::kFloat);
  x[1].mul_(1e-6);
  x[2].mul_(1e6);
  x[3].zero_();
  const Tensor wide = at::zeros({5, 64});
  wide.narrow(1, 0, 48).copy_(x);
  for (const at::ScalarType type : kCodeTypes) {
    Tensor codes = at::empty({5, 48}, type), scale = at::empty({5});
    QuantizeRows(wide.narrow(1, 0, 48), codes, scale);
    EXPECT_TRUE(at::allclose(scale, at::amax(x.abs(), {1}) / Codes8Limit(type)));
    const Tensor inverse = at::where(scale > 0, at::reciprocal(scale), at::zeros({5}));
    EXPECT_TRUE(at::equal(codes.view(at::kByte), Rounded(x * inverse.unsqueeze(1), type).view(at::kByte))) << type;
    EXPECT_EQ(codes[3].to(at::kFloat).abs().max().item<float>(), 0);
    const Tensor error = (codes.to(at::kFloat) * scale.unsqueeze(1) - x).abs() / at::amax(x.abs(), {1}, true).clamp_min(1e-30);
    EXPECT_LT(error.max().item<float>(), type == at::kChar ? 0.5 / 127 + 1e-6 : 1.0 / 28 + 1e-6);
  }
}

TEST(Codes8, OfAnNf4WeightAreThoseOfItsValuesByRowsAndByColumns) {
  const Tensor w = (Normal({32, 64 * 3}, 2) * 0.02).to(at::kFloat);
  for (const bool nested : {false, true}) {
    const Nf4Tensor q = Nf4Quantize(w, nested);
    Tensor values = at::empty({32, 192});
    Nf4Dequantize(q, values);
    for (const at::ScalarType type : kCodeTypes) {
      const Tensor of_rows = at::amax(values.abs(), {1}) / Codes8Limit(type);
      const Tensor of_columns = at::amax(values.abs(), {0}) / Codes8Limit(type);
      Tensor codes = at::empty({32, 192}, type), all = at::zeros({192, 48}, type);
      Tensor transposed = all.narrow(1, 16, 32);
      Nf4ToCodes(q, of_rows, false, codes);
      Nf4ToCodes(q, of_columns, true, transposed);
      const Tensor rows = Rounded(values * at::reciprocal(of_rows).unsqueeze(1), type);
      const Tensor columns = Rounded(values * at::reciprocal(of_columns).unsqueeze(0), type);
      EXPECT_TRUE(at::equal(codes.view(at::kByte), rows.view(at::kByte))) << type;
      EXPECT_TRUE(at::equal(transposed.contiguous().view(at::kByte), columns.t().contiguous().view(at::kByte))) << type;
      EXPECT_EQ(all.narrow(1, 0, 16).to(at::kFloat).abs().max().item<float>(), 0) << "beside its place";
    }
  }
}

TEST(Codes8, ProductIsThatOfTheValuesAndNearTheExactOne) {
  const Tensor x = Normal({7, 64}, 3).to(at::kFloat), w = Normal({32, 64}, 4).to(at::kFloat);
  for (const at::ScalarType type : kCodeTypes) {
    Tensor a = at::empty({7, 64}, type), b = at::empty({32, 64}, type), sa = at::empty({7}), sb = at::empty({32});
    QuantizeRows(x, a, sa);
    QuantizeRows(w, b, sb);
    Tensor wide = at::zeros({7, 40}), y = wide.narrow(1, 0, 32);
    MultiplyCodes(a, sa, b, sb, {}, y);
    const Tensor left = a.to(at::kDouble) * sa.unsqueeze(1), right = b.to(at::kDouble) * sb.unsqueeze(1);
    EXPECT_LT((y - at::mm(left, right.t())).abs().max().item<double>(), 1e-4);
    const Tensor exact = at::mm(x, w.t());
    EXPECT_LT(((y - exact).norm() / exact.norm()).item<double>(), type == at::kChar ? 0.02 : 0.06);
  }
}

TEST(Codes8, RefusesOtherTypesAndUnalignedSides) {
  Tensor bytes = at::empty({2, 16}, at::kByte), scale = at::empty({2}), y = at::empty({2, 8});
  EXPECT_THROW(QuantizeRows(at::ones({2, 16}), bytes, scale), c10::Error);
  const Tensor a = at::zeros({2, 16}, at::kChar), b = at::zeros({8, 16}, at::kChar);
  EXPECT_THROW(MultiplyCodes(a, scale, b, at::empty({8}), {}, y), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
