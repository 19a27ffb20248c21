#include "kernels/product_add.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class ProductAddGpu : public GpuTest {};

TEST_F(ProductAddGpu, EqualsTheTruthAndRepeatsItsBits) {
  for (const auto& [rows, in, out] : {std::array<int64_t, 3>{1, 64, 8}, {77, 592, 576}, {1000, 4112, 4096}, {2048, 14352, 4096}}) {
    const Input x = FreshInput({rows, in}, at::kBFloat16), w = FreshInput({out, in}, at::kBFloat16);
    const Input addend = FreshInput({rows, out}, at::kBFloat16);
    const Tensor x_apart = Spread(x.gpu, 8), w_apart = Spread(w.gpu, 16);
    Tensor y = Poisoned({rows, out}, OnGpu(at::kBFloat16)), again = Poisoned({rows, out}, OnGpu(at::kBFloat16));
    Tensor truth = Poisoned({rows, out}, at::kDouble);
    ProductAdd(x.truth, w.truth, addend.truth, truth);
    ProductAdd(x_apart, w_apart, addend.gpu, y);
    ProductAdd(x_apart, w_apart, addend.gpu, again);
    EXPECT_LT(RelativeError(y, truth), 2 * Floor(at::kBFloat16)) << rows;
    EXPECT_TRUE(SameBits(y, again)) << rows;
  }
}

}  // namespace
}  // namespace finetuned::kernels
