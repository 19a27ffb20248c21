// Loop bodies of the CPU kernels. Written so that the compiler turns loops over them into vector
// code; the float32 exponential is ours because libm's does not vectorize under strict math.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace finetuned::kernels {

// e^x for finite x and NaN, relative error below 2e-7. x is clamped to [-87.33, 88.37].
inline float Exp(float x) {
  x = x < -87.33f ? -87.33f : x;
  x = x > 88.37f ? 88.37f : x;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float poly = 1.9875691500e-4f;
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = poly * r * r + r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - 0x4B400000u + 127u) << 23;
  return poly * std::bit_cast<float>(exponent);
}

inline double Exp(double x) { return std::exp(x); }

// 1 / (1 + e^-x)
template <typename T>
inline T Sigmoid(T x) {
  return T(1) / (T(1) + Exp(-x));
}

}  // namespace finetuned::kernels
