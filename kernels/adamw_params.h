// Plain parameters and the per-element arithmetic of the optimizers, the same on CPU and GPU (both
// are compiled without contraction into fused multiply-adds, so their bits agree).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/blockwise8_math.h"
#include "kernels/dtype.h"

namespace finetuned::kernels {

// One parameter of n elements with float32 states.
struct AdamWTensor {
  float* p;
  const float* g;
  float* m;
  float* v;
  int64_t n;
};

// One parameter with 8-bit states in blocks of 256.
struct Adam8bitTensor {
  float* p;
  const float* g;
  uint8_t* m_codes;
  uint8_t* v_codes;
  float* m_absmax;
  float* v_absmax;
  int64_t n;
};

struct AdamWScalars {
  float beta1;
  float beta2;
  float one_minus_beta1;
  float one_minus_beta2;
  float step_size;          // torch: lr / c1. bitsandbytes: -lr * sqrt(c2) / c1. c = 1 - beta^step
  float sqrt_correction2;   // sqrt(c2)
  float eps;                // torch: eps. bitsandbytes: eps * sqrt(c2)
  float decay;              // 1 - lr * weight_decay
  bool bnb;                 // which of the two update rules the float32 states follow
  const float* grad_scale;  // [1] or null
  const float* skip;        // [1] or null
};

// 8-bit update of one element: new moments; the caller stores them as codes.
struct Moments {
  float m;
  float v;
};

FT_HOST_DEVICE bool IsFinite(float x) { return x - x == 0.0f; }

// torch.optim.AdamW on one element.
FT_HOST_DEVICE void TorchAdamWElement(const AdamWScalars& s, float g, float* p, float* m,
                                      float* v) {
  const float decayed = *p * s.decay;
  const float new_m = *m + s.one_minus_beta1 * (g - *m);
  const float new_v = *v * s.beta2 + s.one_minus_beta2 * g * g;
  *m = new_m;
  *v = new_v;
  *p = decayed - s.step_size * (new_m / (sqrtf(new_v) / s.sqrt_correction2 + s.eps));
}

// bitsandbytes: the moments after the gradient.
FT_HOST_DEVICE Moments BnbMoments(const AdamWScalars& s, float g, float m, float v) {
  return {m * s.beta1 + s.one_minus_beta1 * g, v * s.beta2 + s.one_minus_beta2 * (g * g)};
}

// bitsandbytes: the parameter after the step, decay last.
FT_HOST_DEVICE float BnbParameter(const AdamWScalars& s, float p, const Moments& x) {
  return (p + s.step_size * (x.m / (sqrtf(x.v) + s.eps))) * s.decay;
}

// Code of m / absmax in the signed map, moved so that m keeps its sign.
FT_HOST_DEVICE int SignedCode(const float* map, float m, float absmax) {
  const int code = NearestCode(map, m / absmax);
  const int down = m < 0.0f && map[code] >= 0.0f ? 1 : 0;
  const int up = m > 0.0f && map[code] < 0.0f ? 1 : 0;
  return absmax == 0.0f ? 127 : code - down + up;
}

FT_HOST_DEVICE int UnsignedCode(const float* map, float v, float absmax) {
  const int code = NearestCode(map, v / absmax);
  return absmax == 0.0f ? 0 : code;
}

void AdamWCpu(const std::vector<AdamWTensor>& tensors, const AdamWScalars& s);
void Adam8bitCpu(const std::vector<Adam8bitTensor>& tensors, const AdamWScalars& s);
void AdamWCuda(const std::vector<AdamWTensor>& tensors, const AdamWScalars& s, CudaStream stream);
// The maps are float32 [256] on the device.
void Adam8bitCuda(const std::vector<Adam8bitTensor>& tensors, const AdamWScalars& s,
                  const float* signed_map, const float* unsigned_map, CudaStream stream);

}  // namespace finetuned::kernels
