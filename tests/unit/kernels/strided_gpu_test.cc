// Rows that lie apart, the border of a weight and the narrow gradient: the GPU against the CPU or against its own
// contiguous result.
#include "kernels/cross_entropy.h"
#include "kernels/low_rank_border.h"
#include "kernels/nf4.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class StridedGpu : public GpuTest {};

const std::vector<int64_t> kSpares = {3, 8, 48};  // scalar and vector paths

TEST_F(StridedGpu, RmsNorm) {
  for (at::ScalarType type : kGpuTypes) {
    for (int64_t D : {576, 4096, 77}) {
      for (int64_t spare : kSpares) {
        const Tensor x = FreshInput({37, D}, type).gpu, w = FreshInput({D}, type).gpu;
        const Tensor dy = FreshInput({37, D}, type).gpu;
        Tensor y = Poisoned({37, D}, OnGpu(type)), rstd = Poisoned({37}, OnGpu(at::kFloat));
        Tensor dx = FreshInput({37, D}, type).gpu;
        Tensor y_apart = Spread(y, spare), dx_apart = Spread(dx, spare);
        RmsNormForward(x, w, 1e-5, y, rstd);
        RmsNormForward(x, w, 1e-5, y_apart, rstd);
        RmsNormBackward(dy, x, w, rstd, true, dx);
        RmsNormBackward(Spread(dy, spare), x, w, rstd, true, dx_apart);
        // The scalar path sums in another order.
        EXPECT_LT(RelativeError(y_apart.contiguous(), y.to(at::kDouble)), Floor(type)) << D;
        EXPECT_LT(RelativeError(dx_apart.contiguous(), dx.to(at::kDouble)), Floor(type)) << D;
      }
    }
  }
}

TEST_F(StridedGpu, Swiglu) {
  for (at::ScalarType type : kGpuTypes) {
    for (int64_t F : {1536, 20, 7}) {
      for (int64_t spare : kSpares) {
        const Tensor x = FreshInput({33, 2 * F}, type).gpu, dh = FreshInput({33, F}, type).gpu;
        Tensor h = Poisoned({33, F}, OnGpu(type)), d = Poisoned({33, 2 * F}, OnGpu(type));
        Tensor apart = Spread(x, spare), h_apart = Spread(h, spare);
        SwigluForward(x, h);
        SwigluBackward(dh, x, d);
        SwigluForward(apart, h_apart);
        SwigluBackward(dh, apart, apart);
        EXPECT_TRUE(SameBits(h_apart.contiguous(), h)) << F;
        EXPECT_TRUE(SameBits(apart.contiguous(), d)) << F;
      }
    }
  }
}

TEST_F(StridedGpu, Nf4Dequantize) {
  for (at::ScalarType type : kGpuTypes) {
    for (auto [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{192, 576}, {65, 72}, {9, 33}}) {
      for (int64_t spare : kSpares) {
        const Nf4Tensor q = Nf4Quantize(FreshInput({rows, columns}, at::kFloat).gpu, true);
        Tensor out = Poisoned({rows, columns}, OnGpu(type)), apart = Spread(out, spare);
        Nf4Dequantize(q, out);
        Nf4Dequantize(q, apart);
        EXPECT_TRUE(SameBits(apart.contiguous(), out)) << rows << "x" << columns << "+" << spare;
      }
    }
  }
}

TEST_F(StridedGpu, LowRankBorderEqualsTheCpu) {
  for (at::ScalarType type : kGpuTypes) {
    const int64_t I = 72, O = 130, R = 8;
    const Tensor a = FreshInput({2 * R, I}, type).gpu;
    const Tensor b1 = FreshInput({50, R}, type).gpu, b2 = FreshInput({40, R}, type).gpu;
    const Tensor before = FreshInput({O + 2 * R, I + 2 * R}, type).gpu;
    for (bool with_a : {false, true}) {
      Tensor ours = Spread(before, 8), truth = before.cpu().to(at::kDouble);
      WriteLowRankBorder(ours, a, {{b1, 0}, {b2, 90}}, 0.7f, with_a);
      const auto host = [](const Tensor& x) { return x.cpu().to(at::kDouble); };
      WriteLowRankBorder(truth, host(a), {{host(b1), 0}, {host(b2), 90}}, 0.7f, with_a);
      EXPECT_TRUE(SameBits(ours.contiguous().cpu(), truth.to(type))) << type << with_a;
    }
  }
}

TEST_F(StridedGpu, NarrowGradientIsTheRoundedGradient) {
  for (int64_t V : {5, 1000, 1001, 49152, 128256}) {
    const int64_t C = 6;
    Tensor logits = FreshInput({C, V}, at::kFloat, 4).gpu, narrow = logits.clone();
    const Tensor labels = at::tensor({0, 4, -100, 1, 2, 3}, at::kInt).cuda();
    const Tensor scale = at::full({1}, 0.25, OnGpu(at::kFloat));
    Tensor loss = Poisoned({C}, OnGpu(at::kFloat)), same_loss = loss.clone();
    CrossEntropyChunk(logits, labels, scale, 0.1, true, loss);
    CrossEntropyChunk(narrow, labels, scale, 0.1, true, same_loss, {}, {}, /*narrow_grad=*/true);
    EXPECT_TRUE(SameBits(loss, same_loss)) << V;
    EXPECT_TRUE(SameBits(NarrowGradient(narrow).contiguous(), logits.to(at::kBFloat16))) << V;
  }
}

}  // namespace
}  // namespace finetuned::kernels
