// Nearest entry of a 256-entry quantization map, the same arithmetic on CPU and GPU.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

// Number of entries below x among the first 255 of the ascending map. Straight-line code, so that
// loops over it become vector code on the CPU.
FT_HOST_DEVICE int EntriesBelow(const float* map, float x) {
  int below = map[127] < x ? 128 : 0;
  below += map[below + 63] < x ? 64 : 0;
  below += map[below + 31] < x ? 32 : 0;
  below += map[below + 15] < x ? 16 : 0;
  below += map[below + 7] < x ? 8 : 0;
  below += map[below + 3] < x ? 4 : 0;
  below += map[below + 1] < x ? 2 : 0;
  below += map[below] < x ? 1 : 0;
  return below;
}

// Index of the entry of the ascending map nearest to x, the lower one on a tie.
FT_HOST_DEVICE int NearestCode(const float* map, float x) {
  const int right = EntriesBelow(map, x);
  const int left = right > 0 ? right - 1 : 0;
  return map[right] - x < x - map[left] ? right : left;
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
