#include "kernels/nf4.h"
#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class Nf4Gpu : public GpuTest {};

// Weights with one block of zeros.
Tensor Weight(int64_t n, at::ScalarType type) {
  Tensor w = Normal({n}, FreshSeed()) * 0.02;
  if (n > 128) w.narrow(0, 64, 64).zero_();
  return w.to(type);
}

void ExpectSame(const Nf4Tensor& cpu, const Nf4Tensor& gpu) {
  EXPECT_TRUE(SameBits(cpu.codes, gpu.codes));
  EXPECT_EQ(cpu.offset, gpu.offset);
  if (cpu.nested) {
    EXPECT_TRUE(SameBits(cpu.absmax_q, gpu.absmax_q));
    EXPECT_TRUE(SameBits(cpu.absmax2, gpu.absmax2));
  } else {
    EXPECT_TRUE(SameBits(cpu.absmax, gpu.absmax));
  }
}

TEST_F(Nf4Gpu, BitsEqualTheCpu) {
  for (at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (int64_t n : {1, 7, 63, 64, 65, 217, 4096, 64 * 257 + 3, 576 * 1536, 4096 * 4096}) {
      for (const auto& [nested, table] : {std::pair{false, FourBitType::kNf4}, {true, FourBitType::kNf4},
                                          {false, FourBitType::kFp4}, {true, FourBitType::kFp4}}) {
        SCOPED_TRACE(std::to_string(n) + (nested ? " nested " : " plain ") + c10::toString(type) +
                     (table == FourBitType::kFp4 ? " fp4" : ""));
        const Tensor w = Weight(n, type);
        const Nf4Tensor cpu = Nf4Quantize(w, nested, table), gpu = Nf4Quantize(w.cuda(), nested, table);
        ExpectSame(cpu, gpu);
        for (at::ScalarType out_type : kGpuTypes) {
          Tensor truth = Poisoned({n}, out_type), ours = Poisoned({n}, OnGpu(out_type));
          Nf4Dequantize(cpu, truth);
          Nf4Dequantize(gpu, ours);
          EXPECT_TRUE(SameBits(truth, ours)) << out_type;
          Tensor shifted = Misaligned(Poisoned({n}, OnGpu(out_type)));
          Nf4Dequantize(gpu, shifted);
          EXPECT_TRUE(SameBits(truth, shifted)) << "misaligned " << out_type;
        }
      }
    }
  }
}

}  // namespace
}  // namespace finetuned::kernels
