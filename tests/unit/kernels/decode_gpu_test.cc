// Ops of decoding on the GPU against the truth on the CPU.
#include "tests/unit/kernels/decode_testing.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class DecodeGpu : public GpuTest {};

TEST_F(DecodeGpu, PagedAttentionEqualsTheWholeSequence) {
  for (at::ScalarType type : kGpuTypes) {
    for (int64_t E : {16, 32, 64, 96, 128, 256}) {
      for (int64_t splits : {1, 3, 8}) {
        const PagedFixture f({1, 16, 17, 300}, E == 64 ? 9 : 16, E == 64 ? 3 : 2, E, type, FreshSeed());
        EXPECT_LT(RelativeError(f.Attend(type, at::kCUDA, splits), f.Truth()),
                  type == at::kFloat ? 2e-6 : 8e-3)
            << type << " head size " << E << " splits " << splits;
      }
    }
  }
}

// Rows of every kind of parameters; GPU and CPU must agree on all of them but near ties.
TEST_F(DecodeGpu, SampledTokensAreThoseOfTheCpu) {
  for (int64_t V : {70, 49152, 128257}) {
    std::vector<SamplingRow> rows;
    for (int i = 0; i < 48; ++i) {
      SamplingRow row;
      row.seed = FreshSeed();
      row.sample = static_cast<uint32_t>(i);
      row.inverse_temperature = i % 6 == 0 ? 0.0f : 0.5f + 0.1f * static_cast<float>(i % 5);
      row.top_k = i % 3 == 0 ? 1 + i : 0;
      row.top_p = i % 4 < 2 ? 0.5f + 0.01f * static_cast<float>(i) : 1.0f;
      row.log_min_p = i % 5 == 0 ? -4.0f : 0.0f;
      row.penalty = i % 7 == 0 ? 1.3f : 1.0f;
      rows.push_back(row);
    }
    SamplingFixture cpu(rows, V), gpu(rows, V, at::kCUDA);
    int differing = 0;
    for (int step = 0; step < 3; ++step) {
      const Tensor logits = (Normal({48, V}, FreshSeed()) * 3).to(at::kFloat);
      const auto want = cpu.Sample(logits), got = gpu.Sample(logits.to(at::kCUDA));
      for (int64_t b = 0; b < 48; ++b) {
        if (want.first[b].item<int>() != got.first[b].item<int>()) {
          ++differing;
          continue;
        }
        EXPECT_NEAR(want.second[b].item<float>(), got.second[b].item<float>(), 2e-5) << V << " row " << b;
      }
      // Penalties of the next step need the same past.
      gpu.state.seen_SW.copy_(cpu.state.seen_SW);
    }
    EXPECT_LE(differing, 2) << V;
    EXPECT_TRUE(at::equal(gpu.state.positions_S.cpu(), cpu.state.positions_S));
  }
}

struct Shape {
  std::vector<int64_t> rows;
  int64_t in, splits;
};

TEST_F(DecodeGpu, Nf4GemmEqualsTheProductWithTheDequantizedWeight) {
  for (const Shape& s : {Shape{{256, 64, 64}, 576, 1}, Shape{{384}, 1536, 4}, Shape{{200, 130}, 64, 1},
                         Shape{{4096, 1024, 1024}, 4096, 5}}) {
    for (int64_t M : {1, 7, 8, 13, 32, 33, 64, 100}) {
      const bool nested = M % 2 == 1;
      const auto parts = QuantizedParts(s.rows, s.in, nested, FreshSeed(), at::kCUDA);
      int64_t out = 0;
      for (int64_t r : s.rows) out += r;
      const Tensor x = Spread(FreshInput({M, s.in}, at::kBFloat16).gpu, 16);
      const Tensor bias = FreshInput({out}, at::kBFloat16).gpu;
      LowRankTerm low;
      low.u_MG = Spread(FreshInput({M, 24}, at::kBFloat16).gpu, 8);
      low.parts = {{FreshInput({s.rows[0], 16}, at::kBFloat16, 0.1).gpu, 0},
                   {FreshInput({s.rows.back(), 8}, at::kBFloat16, 0.1).gpu, out - s.rows.back()}};
      low.scale = 2;
      const Tensor scratch = Poisoned({s.splits * M * out}, OnGpu(at::kFloat));
      Tensor y = Spread(Poisoned({M, out}, OnGpu(at::kBFloat16)), 8);
      Nf4Gemm(parts, x, bias, low, s.splits, scratch, y);
      EXPECT_LT(RelativeError(y.cpu(), ProductTruth(parts, x, bias, low, at::kBFloat16)), 4e-3)
          << M << " rows, " << out << " x " << s.in;
      Nf4Gemm(parts, x, {}, {}, s.splits, scratch, y);
      EXPECT_LT(RelativeError(y.cpu(), ProductTruth(parts, x, {}, {}, at::kBFloat16)), 4e-3)
          << M << " rows, " << out << " x " << s.in;
    }
  }
}

TEST_F(DecodeGpu, ARowsProductDoesNotDependOnTheRowsBesideIt) {
  const auto parts = QuantizedParts({512}, 2048, true, FreshSeed(), at::kCUDA);
  const Tensor x = FreshInput({64, 2048}, at::kBFloat16).gpu;
  const Tensor scratch = at::empty({4 * 64 * 512}, OnGpu(at::kFloat));
  Tensor all = Poisoned({64, 512}, OnGpu(at::kBFloat16));
  Nf4Gemm(parts, x, {}, {}, 4, scratch, all);
  for (int64_t M : {1, 16, 31}) {
    Tensor some = Poisoned({M, 512}, OnGpu(at::kBFloat16));
    Nf4Gemm(parts, x.narrow(0, 0, M), {}, {}, 4, scratch, some);
    EXPECT_TRUE(SameBits(some.cpu(), all.narrow(0, 0, M).cpu())) << M;
  }
}

}  // namespace
}  // namespace finetuned::kernels
