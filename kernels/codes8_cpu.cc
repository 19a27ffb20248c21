// Truth of 8-bit codes.
#include <ATen/Parallel.h>
#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <cmath>

#include "kernels/codes8_params.h"

namespace finetuned::kernels {
namespace {

// Rounding can lift the largest value of a row above the limit: codes stop there.
template <typename C>
C Code(float x, float limit) {
  const float bounded = std::clamp(x, -limit, limit);
  if constexpr (sizeof(C) == 1 && std::is_integral_v<C>) return static_cast<C>(std::nearbyint(bounded));
  return static_cast<C>(bounded);
}

template <typename C>
void QuantizeTyped(const QuantizeRowsParams& p) {
  at::parallel_for(0, p.M, 1 + 16384 / p.K, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* x = static_cast<const float*>(p.x) + m * p.stride;
      C* codes = static_cast<C*>(p.codes) + m * p.K;
      float largest = 0;
      for (int64_t k = 0; k < p.K; ++k) largest = std::max(largest, std::fabs(x[k]));
      p.scale[m] = largest / p.limit;
      const float inverse = Codes8Inverse(p.scale[m]);
      for (int64_t k = 0; k < p.K; ++k) codes[k] = Code<C>(x[k] * inverse, p.limit);
    }
  });
}

template <typename C>
void Nf4Typed(const Nf4ToCodesParams& p) {
  constexpr int64_t kBlock = 64, kNestedBlock = 256;
  at::parallel_for(0, p.O, 1 + 16384 / p.I, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < p.I; ++i) {
        const int64_t n = o * p.I + i, block = n / kBlock;
        const float absmax = p.absmax != nullptr ? p.absmax[block]
                                                 : p.nested_map[p.absmax_q[block]] * p.absmax2[block / kNestedBlock] + p.offset;
        const int code = n % 2 == 0 ? p.nf4[n / 2] >> 4 : p.nf4[n / 2] & 15;
        const float inverse = Codes8Inverse(p.scale[p.transposed ? i : o]);
        C* out = static_cast<C*>(p.codes) + (p.transposed ? i * p.stride + o : o * p.stride + i);
        *out = Code<C>(p.code_map[code] * absmax * inverse, p.limit);
      }
    }
  });
}

}  // namespace

void QuantizeRowsCpu(const QuantizeRowsParams& p, bool fp8) {
  fp8 ? QuantizeTyped<c10::Float8_e4m3fn>(p) : QuantizeTyped<int8_t>(p);
}

void Nf4ToCodesCpu(const Nf4ToCodesParams& p, bool fp8) {
  fp8 ? Nf4Typed<c10::Float8_e4m3fn>(p) : Nf4Typed<int8_t>(p);
}

}  // namespace finetuned::kernels
