// RMS norm, rotary embedding, SwiGLU, embedding and dropout on the GPU.
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class ElementwiseGpu : public GpuTest {};

using Shapes = std::vector<std::pair<int64_t, int64_t>>;

// x, w, dy and what the truth makes of them.
struct NormCase {
  Input x, w, dy;
  double eps = 1e-5;
  Tensor y, rstd, dx;  // truth

  NormCase(int64_t T, int64_t D, at::ScalarType type, at::ScalarType w_type)
      : x(FreshInput({T, D}, type)), w(FreshInput({D}, w_type)), dy(FreshInput({T, D}, type)) {
    y = at::empty({T, D}, at::kDouble);
    rstd = at::empty({T}, at::kDouble);
    dx = at::empty({T, D}, at::kDouble);
    RmsNormForward(x.truth, w.truth, eps, y, rstd);
    RmsNormBackward(dy.truth, x.truth, w.truth, rstd, false, dx);
  }
};

TEST_F(ElementwiseGpu, RmsNorm) {
  const Shapes shapes = {{1, 576}, {257, 576}, {33, 4096}, {5, 1001},
                         {3, 8},   {2, 8192},  {7, 20000}, {1025, 64}};
  for (at::ScalarType type : kGpuTypes) {
    for (auto [T, D] : shapes) {
      const NormCase c(T, D, type, type);
      Tensor x = c.x.gpu.clone().requires_grad_();
      const Tensor plain = RmsNormOracle(x, c.w.gpu, c.eps);
      plain.backward(c.dy.gpu);
      for (bool aligned : {true, false}) {
        const std::string what = std::string("RmsNorm ") + (aligned ? "aligned" : "misaligned");
        const Tensor in = aligned ? c.x.gpu : Misaligned(c.x.gpu);
        Tensor y = Poisoned({T, D}, OnGpu(type)), rstd = Poisoned({T}, OnGpu(at::kFloat));
        Tensor dx = Poisoned({T, D}, OnGpu(type));
        RmsNormForward(in, c.w.gpu, c.eps, y, rstd);
        RmsNormBackward(c.dy.gpu, in, c.w.gpu, rstd, false, dx);
        ExpectWithin(what + " y", y, plain, c.y, Floor(type));
        ExpectWithin(what + " dx", dx, x.grad(), c.dx, Floor(type));
        EXPECT_LT(RelativeError(rstd, c.rstd), 1e-6) << what;
      }
    }
  }
}

TEST_F(ElementwiseGpu, RmsNormWithFloat32WeightRoundsOnce) {
  for (auto [T, D] : Shapes{{3, 640}, {9, 1152}, {4, 77}}) {
    const NormCase c(T, D, at::kBFloat16, at::kFloat);
    const Tensor plain = RmsNormOracle(c.x.gpu.to(at::kFloat), c.w.gpu, c.eps).to(at::kBFloat16);
    Tensor y = Poisoned({T, D}, OnGpu(at::kBFloat16)), rstd = Poisoned({T}, OnGpu(at::kFloat));
    Tensor dx = Poisoned({T, D}, OnGpu(at::kBFloat16));
    RmsNormForward(c.x.gpu, c.w.gpu, c.eps, y, rstd);
    RmsNormBackward(c.dy.gpu, c.x.gpu, c.w.gpu, rstd, false, dx);
    ExpectWithin("RmsNorm mixed y", y, plain, c.y, 1.0 / 512);
    EXPECT_LT(RelativeError(dx, c.dx), 1.0 / 256);
  }
}

TEST_F(ElementwiseGpu, AddRmsNormAndAccumulatingBackward) {
  for (at::ScalarType type : kGpuTypes) {
    for (auto [T, D] : Shapes{{1, 576}, {257, 576}, {33, 4096}, {5, 1001}}) {
      const Input residual = FreshInput({T, D}, type), delta = FreshInput({T, D}, type);
      const Input w = FreshInput({D}, type), dy = FreshInput({T, D}, type);
      const Input start = FreshInput({T, D}, type);
      const Tensor sum = residual.gpu + delta.gpu;
      Tensor updated = residual.gpu.clone(), y = Poisoned({T, D}, OnGpu(type));
      Tensor rstd = Poisoned({T}, OnGpu(at::kFloat)), dx = start.gpu.clone();
      AddRmsNormForward(updated, delta.gpu, w.gpu, 1e-5, updated, y, rstd);
      EXPECT_TRUE(SameBits(updated, sum)) << T << "x" << D;
      Tensor y2 = Poisoned({T, D}, OnGpu(type)), rstd2 = Poisoned({T}, OnGpu(at::kFloat));
      RmsNormForward(sum, w.gpu, 1e-5, y2, rstd2);
      EXPECT_TRUE(SameBits(y, y2)) << T << "x" << D;
      RmsNormBackward(dy.gpu, updated, w.gpu, rstd, true, dx);
      Tensor truth = start.truth.clone();
      RmsNormBackward(dy.truth, sum.cpu().to(at::kDouble), w.truth, rstd.cpu().to(at::kDouble),
                      true, truth);
      EXPECT_LT(RelativeError(dx, truth), 2 * Floor(type)) << T << "x" << D;
    }
  }
}

TEST_F(ElementwiseGpu, Rope) {
  struct Case {
    int64_t T, H, E;
    bool slice;
  };
  const std::vector<Case> cases = {{1, 9, 64, false}, {257, 9, 64, true}, {33, 32, 128, false},
                                   {5, 3, 6, true},   {70, 1, 256, true}, {2051, 2, 80, false}};
  for (at::ScalarType type : kGpuTypes) {
    for (const Case& c : cases) {
      const Tensor positions = at::arange(c.T, at::kInt) * 37 % 8192, inv = LlamaInvFreq(c.E);
      for (int sign : {1, -1}) {
        const Input fused = FreshInput({c.T, c.slice ? c.H + 3 : c.H, c.E}, type);
        Tensor truth = fused.truth.narrow(1, 0, c.H), ours = fused.gpu.narrow(1, 0, c.H);
        const Tensor rest = fused.gpu.narrow(1, c.H, c.slice ? 3 : 0).clone();
        const Tensor plain = RopeOracle(ours, positions.cuda(), inv.cuda(), sign);
        RopeInPlace(truth, positions, inv, sign);
        RopeInPlace(ours, positions.cuda(), inv.cuda(), sign);
        ExpectWithin("Rope", ours, plain, truth, Floor(type));
        EXPECT_TRUE(SameBits(fused.gpu.narrow(1, c.H, c.slice ? 3 : 0), rest));
      }
    }
  }
}

TEST_F(ElementwiseGpu, Swiglu) {
  for (at::ScalarType type : kGpuTypes) {
    for (auto [T, F] : Shapes{{1, 1536}, {257, 1536}, {33, 11008}, {5, 1001}, {2, 8}}) {
      const Input x = FreshInput({T, 2 * F}, type, 3), dh = FreshInput({T, F}, type);
      Tensor h_truth = at::empty({T, F}, at::kDouble), d_truth = at::empty({T, 2 * F}, at::kDouble);
      SwigluForward(x.truth, h_truth);
      SwigluBackward(dh.truth, x.truth, d_truth);
      Tensor leaf = x.gpu.clone().requires_grad_();
      const Tensor plain = SwigluOracle(leaf);
      plain.backward(dh.gpu);
      for (bool aligned : {true, false}) {
        Tensor h = Poisoned({T, F}, OnGpu(type)), d = Poisoned({T, 2 * F}, OnGpu(type));
        Tensor h_again = Poisoned({T, F}, OnGpu(type));
        Tensor in = aligned ? x.gpu.clone() : Misaligned(x.gpu);
        SwigluForward(in, h);
        SwigluBackward(dh.gpu, in, d, h_again);
        ExpectWithin("Swiglu h", h, plain, h_truth, Floor(type));
        ExpectWithin("Swiglu d", d, leaf.grad(), d_truth, Floor(type));
        EXPECT_TRUE(SameBits(h, h_again)) << T << "x" << F;
        Tensor dh_then_h = dh.gpu.clone();
        SwigluBackward(dh_then_h, in, in, dh_then_h);
        EXPECT_TRUE(SameBits(in, d) && SameBits(dh_then_h, h)) << "in place " << T << "x" << F;
      }
    }
  }
}

TEST_F(ElementwiseGpu, Embedding) {
  for (at::ScalarType type : kGpuTypes) {
    for (int64_t D : {576, 4096, 7}) {
      const Tensor table = FreshInput({1000, D}, type).gpu;
      const Tensor ids = (at::arange(257, at::kInt) * 31 % 1000).cuda();
      Tensor out = Poisoned({257, D}, OnGpu(type));
      EmbeddingGather(table, ids, out);
      Tensor from_host = Poisoned(out.sizes(), out.options());
      EmbeddingGather(table.cpu().pin_memory(), ids, from_host);
      EXPECT_TRUE(SameBits(from_host, out));
      EXPECT_TRUE(SameBits(out, table.index_select(0, ids))) << D;
      Tensor bad_rows = at::zeros({3, D}, OnGpu(type));
      EmbeddingGather(table, at::tensor({-1, 5, 1000}, at::kInt).cuda(), bad_rows);
      EXPECT_TRUE(bad_rows[0].isnan().all().item<bool>());
      EXPECT_TRUE(SameBits(bad_rows[1], table[5]));
      EXPECT_TRUE(bad_rows[2].isnan().all().item<bool>());
    }
  }
}

TEST_F(ElementwiseGpu, DropoutBitsEqualTheCpu) {
  for (at::ScalarType type : kGpuTypes) {
    for (int64_t n : {1, 3, 4, 1023, 257 * 576}) {
      for (double p : {0.0, 0.1, 0.5}) {
        const uint64_t seed = FreshSeed();
        const Tensor x = Normal({n}, seed).to(type);
        Tensor cpu = Poisoned({n}, type), gpu = Poisoned({n}, OnGpu(type));
        DropoutForward(x, p, seed, 1234567890123ull, cpu);
        DropoutForward(x.cuda(), p, seed, 1234567890123ull, gpu);
        EXPECT_TRUE(SameBits(cpu, gpu)) << n << " " << p << " " << type;
        Tensor shifted = Misaligned(x.cuda());
        DropoutForward(shifted, p, seed, 1234567890123ull, shifted);
        EXPECT_TRUE(SameBits(cpu, shifted)) << "misaligned " << n << " " << p << " " << type;
      }
    }
  }
}

}  // namespace
}  // namespace finetuned::kernels
