// Nearest entry of a 256-entry quantization map, the same arithmetic on CPU and GPU.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

// Index of the entry of the ascending map nearest to x, the lower one on a tie.
FT_HOST_DEVICE int NearestCode(const float* map, float x) {
  int below = 0;  // entries below x among the first 255
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int step = 128; step > 0; step >>= 1) below += map[below + step - 1] < x ? step : 0;
  if (below == 0) return 0;
  return map[below] - x < x - map[below - 1] ? below : below - 1;
}

// Index that the CPU backend of bitsandbytes gives x in [-1, 1]: x is first rounded to one of 65536
// equidistant values, then the nearest entry of the map is taken (the lower one on a tie).
FT_HOST_DEVICE int NearestCodeOfBin(const float* map, float x) {
  x = x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x;
  const int bin = static_cast<int>((x + 1.0f) * 0.5f * 65535.0f + 0.5f);
  const float value = -1.0f + (2.0f * static_cast<float>(bin)) / 65535.0f;
  int code = 0;  // midpoints below value
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int step = 128; step > 0; step >>= 1) {
    const int i = code + step - 1;
    if (i < 255 && 0.5f * (map[i] + map[i + 1]) < value) code += step;
  }
  return code;
}

}  // namespace finetuned::kernels
