// Truth of 8-bit codes with a scale per row.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>

#include "kernels/row_codes_params.h"

namespace finetuned::kernels {
namespace {

template <typename C, typename T>
void Dequantize(const RowCodesParams& p) {
  at::parallel_for(0, p.O, 1 + 65536 / p.I, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const C* codes = static_cast<const C*>(p.codes) + o * p.I;
      T* out = static_cast<T*>(p.out) + o * p.out_stride;
      const float scale = p.scale[o];
      for (int64_t i = 0; i < p.I; ++i) out[i] = static_cast<T>(static_cast<float>(codes[i]) * scale);
    }
  });
}

}  // namespace

void DequantizeRowCodesCpu(const RowCodesParams& p, Dtype dtype, bool fp8) {
  if (dtype == Dtype::kFloat32) {
    fp8 ? Dequantize<c10::Float8_e4m3fn, float>(p) : Dequantize<int8_t, float>(p);
  } else {
    fp8 ? Dequantize<c10::Float8_e4m3fn, c10::BFloat16>(p) : Dequantize<int8_t, c10::BFloat16>(p);
  }
}

}  // namespace finetuned::kernels
