// The gate's activation on the GPU, shared by the kernels that pass it.
#pragma once

#include "kernels/cuda_common.cuh"

namespace finetuned::kernels {

template <typename T>
__device__ __forceinline__ float Sigmoid(float x) {
  return 1.0f / (1.0f + Exp<T>(-x));
}

// Value and derivative of the gate's activation.
struct Activated {
  float value, slope;
};

template <typename T, bool kGelu>
__device__ __forceinline__ Activated Activate(float x) {
  if constexpr (kGelu) {
    // 0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3); 0.5 (1 + tanh(u)) = sigmoid(2 u).
    constexpr float kRoot = 0.79788456080286535588f, kCubic = 0.044715f;
    const float s = Sigmoid<T>(2.0f * kRoot * (x + kCubic * x * x * x));
    return {x * s, s + 2.0f * x * s * (1.0f - s) * kRoot * (1.0f + 3.0f * kCubic * x * x)};
  } else {
    const float s = Sigmoid<T>(x);
    const float silu = x * s;
    return {silu, s + silu * (1.0f - s)};
  }
}

}  // namespace finetuned::kernels
