#include "kernels/row_codes.h"

#include <array>

#include "tests/unit/kernels/gpu_testing.h"

namespace finetuned::kernels {
namespace {

using at::Tensor;

class RowCodesGpu : public GpuTest {};

TEST_F(RowCodesGpu, BitsEqualTheCpu) {
  for (const at::ScalarType codes : {at::kChar, at::kFloat8_e4m3fn}) {
    for (const at::ScalarType from : {at::kFloat, at::kHalf, at::kBFloat16}) {
      for (const auto& [o, i, spare] :
           {std::array<int64_t, 3>{1, 1, 0}, {3, 17, 0}, {5, 64, 8}, {64, 576, 16}, {130, 4096, 0}, {7, 14336, 48}}) {
        SCOPED_TRACE(std::to_string(o) + "x" + std::to_string(i) + " " + c10::toString(from) + " " + c10::toString(codes));
        Tensor w = (Normal({o, i}, FreshSeed()) * 0.02).to(from);
        if (o > 2) w[2].zero_();
        const RowCodes cpu = QuantizeToRowCodes(w, codes), gpu = QuantizeToRowCodes(w.cuda(), codes);
        EXPECT_TRUE(SameBits(cpu.codes_OI.view(at::kByte), gpu.codes_OI.view(at::kByte)));
        EXPECT_TRUE(SameBits(cpu.scale_O, gpu.scale_O));
        for (const at::ScalarType type : kGpuTypes) {
          Tensor truth = Poisoned({o, i}, type), all = at::full({o, i + spare}, 7, OnGpu(type));
          Tensor ours = all.narrow(1, 0, i);
          DequantizeRowCodes(cpu, truth);
          DequantizeRowCodes(gpu, ours);
          EXPECT_TRUE(SameBits(truth, ours.contiguous())) << type;
          if (spare > 0) {
            EXPECT_EQ(all.narrow(1, i, spare).min().item<float>(), 7);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace finetuned::kernels
