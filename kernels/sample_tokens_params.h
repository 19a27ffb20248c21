// Plain parameters of the choice of tokens. Legend: see sample_tokens.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/philox.h"
#include "kernels/sample_tokens.h"

namespace finetuned::kernels {

struct SampleTokensParams {
  const float* logits;   // [B, V]
  const int32_t* slots;  // [B]
  int32_t* tokens;       // [S]
  int32_t* positions;    // [S]
  uint32_t* seen;        // [S, W]
  const SamplingRow* rows;  // [S]
  int32_t* out;          // [2, B]
  int64_t B, V, W;
};

// Noise -log(E) is at most 22.9 (w = 2^-33) and at least -2.9 (w = 1 - 2^-24): an entry this far below the largest
// cannot win.
inline constexpr float kHopeless = 26.0f;

// Shares of a softmax as integers: their sums are exact. V * 2^40 fits 64 bits.
FT_HOST_DEVICE uint64_t FixedShare(float share) {
  return static_cast<uint64_t>(share * 1099511627776.0f);
}

// Logits after penalty and temperature.
FT_HOST_DEVICE float Adjusted(float x, bool seen, float penalty, float inverse_temperature) {
  if (seen) x = x < 0.0f ? x * penalty : x / penalty;
  return inverse_temperature > 0.0f ? x * inverse_temperature : x;
}

FT_HOST_DEVICE bool Seen(const uint32_t* seen, int64_t v) { return seen[v / 32] >> (v % 32) & 1u; }

// (word + 1/2) * 2^-32 as float32, below 1.
FT_HOST_DEVICE float NoiseShare(uint32_t word) {
  const float w = (static_cast<float>(word) + 0.5f) * 2.3283064365386963e-10f;
  return w < 0.99999994f ? w : 0.99999994f;
}

void SampleTokensCpu(const SampleTokensParams& p);
void SampleTokensCuda(const SampleTokensParams& p, CudaStream stream);

}  // namespace finetuned::kernels
