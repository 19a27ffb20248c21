// The CUDA operations with what families add, against the CPU's in float64.
#include "kernels/cross_entropy.h"
#include "kernels/swiglu.h"
#include "kernels/varlen_attention.h"
#include "tests/unit/kernels/decode_testing.h"
#include "tests/unit/kernels/family_ops_testing.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class FamilyOpsGpu : public GpuTest {};

double Bound(at::ScalarType type) { return type == at::kFloat ? 2e-5 : 0.012; }

TEST_F(FamilyOpsGpu, HeadNorms) {
  for (const at::ScalarType type : kGpuTypes) {
    for (const bool center : {false, true}) {
      for (const int64_t E : {16, 100, 128, 5000}) {
        const HeadNormOptions o = {.eps = 1e-5, .center = center};
        const Input x = FreshInput({37, 3, E}, type), dy = FreshInput({37, 3, E}, type);
        const Tensor w = Normal({3, E}, FreshSeed()).to(at::kFloat);
        Tensor y = at::empty({37, 3, E}, OnGpu(type)), truth = at::empty({37, 3, E}, at::kDouble);
        HeadNormForward(x.gpu, w.cuda(), o, y);
        HeadNormForward(x.truth, w.to(at::kDouble), o, truth);
        EXPECT_LT(RelativeError(y.cpu(), truth), Bound(type)) << E;
        HeadNormBackward(dy.gpu, x.gpu, w.cuda(), o, false, y);
        HeadNormBackward(dy.truth, x.truth, w.to(at::kDouble), o, false, truth);
        EXPECT_LT(RelativeError(y.cpu(), truth), Bound(type)) << E;
      }
    }
  }
}

TEST_F(FamilyOpsGpu, RopeOfAPartInterleavedAndScaled) {
  const Tensor positions = at::arange(50, at::kInt);
  for (const at::ScalarType type : kGpuTypes) {
    for (const RopeOptions& o : {RopeOptions{true, 1.0}, RopeOptions{false, 1.3}}) {
      for (const int64_t rotated : {128, 96, 12}) {
        const Tensor inv_freq = LlamaInvFreq(rotated);
        Input x = FreshInput({50, 3, 128}, type);
        RopeInPlace(x.gpu, positions.cuda(), inv_freq.cuda(), +1, o);
        RopeInPlace(x.truth, positions, inv_freq, +1, o);
        EXPECT_LT(RelativeError(x.gpu.cpu(), x.truth), Bound(type)) << rotated;
      }
    }
  }
}

TEST_F(FamilyOpsGpu, GeluGate) {
  for (const at::ScalarType type : kGpuTypes) {
    for (const int64_t F : {11, 256}) {
      const Input x = FreshInput({33, 2 * F}, type, 3), dh = FreshInput({33, F}, type);
      Tensor h = at::empty({33, F}, OnGpu(type)), d = at::empty({33, 2 * F}, OnGpu(type));
      Tensor h_truth = at::empty({33, F}, at::kDouble), d_truth = at::empty({33, 2 * F}, at::kDouble);
      SwigluForward(x.gpu, h, Gate::kGeluTanh);
      SwigluForward(x.truth, h_truth, Gate::kGeluTanh);
      SwigluBackward(dh.gpu, x.gpu, d, {}, Gate::kGeluTanh);
      SwigluBackward(dh.truth, x.truth, d_truth, {}, Gate::kGeluTanh);
      EXPECT_LT(RelativeError(h.cpu(), h_truth), Bound(type));
      EXPECT_LT(RelativeError(d.cpu(), d_truth), Bound(type));
    }
  }
}

// Windows through flash attention, softcaps through the composition, some of its blocks of rows smaller than a document.
TEST_F(FamilyOpsGpu, AttentionWithWindowAndSoftcap) {
  const std::vector<int32_t> cu = {0, 3, 700, 701, 2800};
  const Tensor bounds = at::tensor(cu, at::kInt);
  for (const at::ScalarType type : kGpuTypes) {
    for (const ScoreOptions& o : {ScoreOptions{0.125, 300, 0}, ScoreOptions{0.125, 0, 2.0}, ScoreOptions{0.125, 300, 2.0}}) {
      const Input q = FreshInput({2800, 8, 64}, type), k = FreshInput({2800, 4, 64}, type), v = FreshInput({2800, 4, 64}, type);
      const Input dout = FreshInput({2800, 8, 64}, type);
      Tensor g[5], t[5];  // out lse dq dk dv
      VarlenAttentionForward(q.gpu, k.gpu, v.gpu, bounds.cuda(), cu, 2099, o, g[0], g[1]);
      VarlenAttentionBackward(dout.gpu, q.gpu, k.gpu, v.gpu, g[0], g[1], bounds.cuda(), cu, 2099, o, g[2], g[3], g[4], false);
      VarlenAttentionForward(q.truth, k.truth, v.truth, bounds, cu, 2099, o, t[0], t[1]);
      VarlenAttentionBackward(dout.truth, q.truth, k.truth, v.truth, t[0], t[1], bounds, cu, 2099, o, t[2], t[3], t[4], false);
      for (int i = 0; i < 5; ++i) {
        EXPECT_LT(RelativeError(g[i].cpu(), t[i]), Bound(type)) << i << " window " << o.window << " cap " << o.softcap;
      }
    }
  }
}

TEST_F(FamilyOpsGpu, PagedAttentionWithWindowAndSoftcap) {
  for (const at::ScalarType type : kGpuTypes) {
    const PagedFixture f({1, 15, 17, 70, 700}, 8, 2, 64, type, FreshSeed());
    for (const int64_t splits : {1, 4}) {
      for (const int64_t window : {1, 50, 1000}) {
        const Tensor truth = f.Attend(at::kDouble, at::kCPU, 1, window, 1.5);
        EXPECT_LT(RelativeError(f.Attend(type, at::kCUDA, splits, window, 1.5), truth), Bound(type)) << window;
      }
    }
  }
}

TEST_F(FamilyOpsGpu, CrossEntropyWithSoftcap) {
  for (const int64_t V : {37, 4000}) {
    for (const bool narrow : {false, true}) {
      const Input x = FreshInput({9, V}, at::kFloat, 4);
      const Tensor labels = at::arange(9, at::kInt);
      Tensor logits = x.gpu.clone(), truth = x.truth.clone();
      Tensor loss = at::empty({9}, OnGpu(at::kFloat)), loss_truth = at::empty({9}, at::kFloat);
      CrossEntropyChunk(logits, labels.cuda(), at::ones({1}).cuda(), 0.1, true, loss, {}, {}, narrow, {}, 2.5);
      CrossEntropyChunk(truth, labels, at::ones({1}), 0.1, true, loss_truth, {}, {}, false, {}, 2.5);
      EXPECT_LT(RelativeError(loss.cpu(), loss_truth), 1e-5);
      EXPECT_LT(RelativeError((narrow ? NarrowGradient(logits) : logits).cpu(), truth), narrow ? 0.01 : 1e-4);
    }
  }
}

}  // namespace
}  // namespace finetuned::kernels
