#include "kernels/product_add.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace finetuned::kernels {
namespace {

TEST(ProductAdd, IsTheProductAndTheAddend) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor x = at::randn({7, 24}, options).narrow(1, 0, 20), w = at::randn({5, 20}, options);
  const at::Tensor addend = at::randn({7, 6}, options).narrow(1, 0, 5);
  at::Tensor y = at::full({7, 9}, 1e30, options).narrow(1, 2, 5);
  ProductAdd(x, w, addend, y);
  EXPECT_TRUE(at::allclose(y, at::matmul(x, w.t()) + addend, 1e-12, 1e-12));
}

TEST(ProductAdd, NamesWhatDoesNotFit) {
  at::Tensor y = at::zeros({2, 5});
  EXPECT_THROW(ProductAdd(at::zeros({2, 3}), at::zeros({5, 4}), at::zeros({2, 5}), y), c10::Error);
  EXPECT_THROW(ProductAdd(at::zeros({2, 4}), at::zeros({5, 4}), at::zeros({2, 4}), y), c10::Error);
}

}  // namespace
}  // namespace finetuned::kernels
