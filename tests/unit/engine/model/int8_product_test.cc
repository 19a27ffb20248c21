#include "engine/model/int8_product.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

namespace finetuned::model {
namespace {

using at::Tensor;

// The formula in float64: what stays of x in INT8 with a scale per row, outlier columns as they are.
Tensor Truth(const Tensor& x_TI, const std::vector<kernels::RowCodes>& parts, double threshold) {
  std::vector<Tensor> weights;
  for (const kernels::RowCodes& part : parts) {
    weights.push_back(part.codes_OI.to(at::kDouble) * part.scale_O.to(at::kDouble).unsqueeze(1));
  }
  const Tensor w = at::cat(weights), x = x_TI.to(at::kDouble);
  const Tensor outlier_I = std::get<0>(x.abs().max(0)).ge(threshold).to(at::kDouble);
  const Tensor rest = x * (1 - outlier_I);
  const Tensor scale = (std::get<0>(rest.abs().max(1)) / 127).unsqueeze(1);
  const Tensor rounded = at::where(scale > 0, (rest / scale).round() * scale, 0.0);
  return at::mm(rounded + x * outlier_I, w.t());
}

class Int8ProductTest : public testing::Test {
 protected:
  Int8ProductTest() {
    at::manual_seed(3);
    for (const int64_t rows : {32, 16, 48}) parts_.push_back(kernels::QuantizeToRowCodes(at::randn({rows, 96}) * 0.05, at::kChar));
    x_TI_ = at::randn({37, 96});
    x_TI_.select(1, 5).mul_(30);
    x_TI_.select(1, 80).mul_(-12);
    x_TI_[4].zero_();
  }

  double Error(double threshold) {
    Tensor all = at::full({37, 96 + 8}, 7.0f), y = all.narrow(1, 0, 96);
    Int8Product(parts_, x_TI_, threshold, workspace_, y);
    EXPECT_EQ(all.narrow(1, 96, 8).min().item<float>(), 7);
    const Tensor truth = Truth(x_TI_, parts_, threshold);
    return ((y - truth).abs().max() / truth.abs().max()).item<double>();
  }

  // Against the product of the unrounded inputs.
  double Loss(double threshold) {
    Tensor y = at::empty({37, 96});
    Int8Product(parts_, x_TI_, threshold, workspace_, y);
    const Tensor exact = Truth(x_TI_, parts_, /*threshold=*/0);
    return ((y - exact).abs().max() / exact.abs().max()).item<double>();
  }

  c10::InferenceMode no_autograd_;
  Workspace workspace_{at::kCPU};
  std::vector<kernels::RowCodes> parts_;
  Tensor x_TI_;
};

TEST_F(Int8ProductTest, EqualsTheFormula) {
  for (const double threshold : {1e9, 20.0, 6.0}) EXPECT_LT(Error(threshold), 1e-5) << threshold;
}

TEST_F(Int8ProductTest, OutlierColumnsKeepTheOthersExact) {
  EXPECT_LT(Loss(6), 0.3 * Loss(1e9));
}

TEST_F(Int8ProductTest, OddSizesAreNotTaken) {
  EXPECT_TRUE(Int8ProductSupports(parts_, 96));
  EXPECT_FALSE(Int8ProductSupports(parts_, 100));
  EXPECT_FALSE(Int8ProductSupports({kernels::QuantizeToRowCodes(at::ones({8, 96}), at::kChar)}, 96));
  EXPECT_FALSE(Int8ProductSupports({kernels::QuantizeToRowCodes(at::ones({16, 96}), at::kFloat8_e4m3fn)}, 96));
  EXPECT_FALSE(Int8ProductSupports({}, 96));
}

}  // namespace
}  // namespace finetuned::model
