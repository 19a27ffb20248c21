// 8-bit codes on the GPU: bits of codes and scales against the CPU, products against those of the values.
#include "kernels/codes8.h"

#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

const std::vector<at::ScalarType> kCodeTypes = {at::kFloat8_e4m3fn, at::kChar};

class Codes8Gpu : public GpuTest {
 protected:
  // FP8 products need compute capability 8.9.
  static bool CanMultiply(at::ScalarType type) {
    if (type == at::kChar) return true;
    try {
      Tensor a = at::zeros({32, 16}, OnGpu(type)), y = at::zeros({32, 16}, OnGpu(at::kBFloat16));
      MultiplyCodes(a, at::ones({32}, OnGpu(at::kFloat)), a, at::ones({32}, OnGpu(at::kFloat)), {}, y);
      return true;
    } catch (const c10::Error&) {
      return false;
    }
  }
};

TEST_F(Codes8Gpu, RowsHaveTheBitsOfTheCpu) {
  for (const at::ScalarType from : kGpuTypes) {
    for (const at::ScalarType type : kCodeTypes) {
      for (const auto& [m, k, spare] : {std::array<int64_t, 3>{1, 1, 0}, {3, 17, 3}, {5, 64, 0}, {9, 4096, 32}, {4, 28672, 32}, {2, 576, 8}}) {
        SCOPED_TRACE(std::to_string(m) + "x" + std::to_string(k) + " " + c10::toString(from) + " " + c10::toString(type));
        Tensor x = Normal({m, k + spare}, FreshSeed()).to(from).to(at::kFloat);
        if (m > 2) x[2].zero_();
        const Tensor on_gpu = ToGpu(x, from);
        Tensor codes = at::empty({m, k}, type), scale = at::empty({m}), gpu_codes = at::empty({m, k}, OnGpu(type)),
               gpu_scale = at::empty({m}, OnGpu(at::kFloat));
        QuantizeRows(x.narrow(1, 0, k), codes, scale);
        QuantizeRows(on_gpu.narrow(1, 0, k), gpu_codes, gpu_scale);
        EXPECT_TRUE(SameBits(scale, gpu_scale));
        EXPECT_TRUE(SameBits(codes.view(at::kByte), gpu_codes.view(at::kByte)));
      }
    }
  }
}

TEST_F(Codes8Gpu, OfAnNf4WeightHaveTheBitsOfTheCpu) {
  for (const at::ScalarType type : kCodeTypes) {
    for (const auto& [o, i] : {std::array<int64_t, 2>{1, 64}, {64, 64}, {192, 576}, {130, 72}, {4096, 1024}}) {
      for (const bool nested : {false, true}) {
        for (const bool transposed : {false, true}) {
          SCOPED_TRACE(std::to_string(o) + "x" + std::to_string(i) + (nested ? " nested" : "") + (transposed ? " transposed" : ""));
          const Tensor w = (Normal({o, i}, FreshSeed()) * 0.02).to(at::kFloat);
          const Nf4Tensor cpu = Nf4Quantize(w, nested), gpu = Nf4Quantize(w.cuda(), nested);
          const Tensor scale = at::amax(w.abs(), {transposed ? 0 : 1}) / Codes8Limit(type);
          const int64_t rows = transposed ? i : o, columns = transposed ? o : i;
          Tensor truth = at::zeros({rows, columns + 16}, type), ours = at::zeros({rows, columns + 16}, OnGpu(type));
          Tensor truth_place = truth.narrow(1, 0, columns), our_place = ours.narrow(1, 0, columns);
          Nf4ToCodes(cpu, scale, transposed, truth_place);
          Nf4ToCodes(gpu, scale.cuda(), transposed, our_place);
          EXPECT_TRUE(SameBits(truth.view(at::kByte), ours.view(at::kByte)));
        }
      }
    }
  }
}

TEST_F(Codes8Gpu, ProductsEqualThoseOfTheValues) {
  for (const at::ScalarType type : kCodeTypes) {
    if (!CanMultiply(type)) continue;
    for (const int64_t m : {1, 7, 33, 100, 1025}) {
      for (const int64_t spare : {0, 32}) {
        SCOPED_TRACE(std::to_string(m) + " rows, spare " + std::to_string(spare) + " " + c10::toString(type));
        const int64_t k = 576, n = 192, padded = Codes8Rows(m);
        const Tensor x = Normal({m, k}, FreshSeed()).to(at::kFloat), w = Normal({n, k}, FreshSeed()).to(at::kFloat);
        Tensor a = at::zeros({padded, k}, OnGpu(type)).narrow(0, 0, m), sa = at::zeros({padded}, OnGpu(at::kFloat)).narrow(0, 0, m);
        Tensor b = at::zeros({n, k}, OnGpu(type)), sb = at::zeros({n}, OnGpu(at::kFloat));
        QuantizeRows(x.cuda(), a, sa);
        QuantizeRows(w.cuda(), b, sb);
        Tensor all = at::zeros({m, n + spare}, OnGpu(at::kBFloat16)), y = all.narrow(1, 0, n);
        const Tensor sums = at::empty({64 * n}, OnGpu(at::kInt));  // 64 rows at a time
        MultiplyCodes(a, sa, b, sb, sums, y);
        const Tensor left = a.cpu().to(at::kDouble) * sa.cpu().unsqueeze(1), right = b.cpu().to(at::kDouble) * sb.cpu().unsqueeze(1);
        const Tensor truth = at::mm(left, right.t());
        // bfloat16 results; FP8 tensor cores sum with about 14 bits.
        const double bound = truth.abs().max().item<double>() / 128;
        EXPECT_LT((y.cpu() - truth).abs().max().item<double>(), bound);
        if (spare > 0) EXPECT_EQ(all.narrow(1, n, spare).abs().max().item<float>(), 0);
      }
    }
  }
}

}  // namespace
}  // namespace finetuned::kernels
