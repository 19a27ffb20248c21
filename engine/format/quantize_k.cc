// Formulas: quantize_row_q{4,5,6}_K_ref, make_qkx2_quants and make_qx_quants of llama.cpp's ggml-quants.c. The order of
// operations is theirs, so that the bytes are.
#include <algorithm>
#include <cmath>

#include "engine/format/dequantize.h"
#include "engine/format/quantize_block.h"

namespace finetuned::format {
namespace {

constexpr float kNoWeight = 1e-15f;  // blocks below it are all zero

// What is searched for a sub-block of 32 with scale and minimum: scales (first + step * i + levels) / range.
struct Search {
  int max_code;
  float first, step;
  int steps;
};

struct Fit {
  float scale = 0, min = 0;  // value = scale * code - min
};

// Least squares for given codes: value = scale * code + min, min <= 0.
struct Sums {
  float w = 0, x = 0, l = 0, l2 = 0, xl = 0;
};

void Codes(const float* x, float inverse, float min, int max_code, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<uint8_t>(std::clamp(NearestInt(inverse * (x[i] - min)), 0, max_code));
  }
}

float WeightedError(const float* x, const float* weights, const uint8_t* codes, float scale, float min) {
  float error = 0;
  for (int i = 0; i < 32; ++i) {
    const float difference = scale * static_cast<float>(codes[i]) + min - x[i];
    error += weights[i] * (difference * difference);
  }
  return error;
}

// Scale and minimum of the least weighted error among the candidates, and the codes that go with them.
Fit FitScaleAndMin(const float* x, const float* weights, const Search& search, uint8_t* codes) {
  float min = x[0], max = x[0];
  Sums s;
  s.w = weights[0];
  s.x = s.w * x[0];
  for (int i = 1; i < 32; ++i) {
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
    s.w += weights[i];
    s.x += weights[i] * x[i];
  }
  min = std::min(min, 0.0f);
  if (max == min) {
    std::fill(codes, codes + 32, uint8_t{0});
    return {0.0f, -min};
  }
  const float range = max - min, levels = static_cast<float>(search.max_code);
  float scale = 1.0f / (levels / range), best_min = min;
  Codes(x, levels / range, min, search.max_code, codes);
  float best = WeightedError(x, weights, codes, scale, min);
  for (int step = 0; step <= search.steps; ++step) {
    uint8_t tried[32];
    // The reference measures from the best minimum found so far.
    const float inverse = (search.first + search.step * static_cast<float>(step) + levels) / (max - best_min);
    Codes(x, inverse, best_min, search.max_code, tried);
    s.l = s.l2 = s.xl = 0;
    for (int i = 0; i < 32; ++i) {
      const float l = static_cast<float>(tried[i]), w = weights[i];
      s.l += w * l;
      s.l2 += w * l * l;
      s.xl += w * l * x[i];
    }
    const float determinant = s.w * s.l2 - s.l * s.l;
    if (!(determinant > 0)) continue;
    float this_scale = (s.w * s.xl - s.x * s.l) / determinant;
    float this_min = (s.l2 * s.x - s.l * s.xl) / determinant;
    if (this_min > 0) {
      this_min = 0;
      this_scale = s.xl / s.l2;
    }
    const float error = WeightedError(x, weights, tried, this_scale, this_min);
    if (error < best) {
      std::copy(tried, tried + 32, codes);
      best = error;
      scale = this_scale;
      best_min = this_min;
    }
  }
  return {scale, -best_min};
}

// The eight scales and minimums as six-bit numbers in 12 bytes; see UnpackScaleMin in dequantize.cc.
void PackScales(const uint8_t* scales, const uint8_t* mins, uint8_t* packed) {
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
    packed[j + 4] = static_cast<uint8_t>(mins[j] | (mins[j + 4] >> 4) << 6);
    packed[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
  }
}

// Head (d, dmin, packed scales: 16 bytes) and codes of a block of 256.
void ScaleMinBlock(const float* x, const Search& search, uint8_t* head, uint8_t* codes) {
  Fit fits[8];
  float max_scale = 0, max_min = 0;
  for (int j = 0; j < 8; ++j) {
    const float* sub = x + 32 * j;
    float sum = 0, weights[32];
    for (int i = 0; i < 32; ++i) sum += sub[i] * sub[i];
    const float average = std::sqrt(sum / 32);
    for (int i = 0; i < 32; ++i) weights[i] = average + std::fabs(sub[i]);
    fits[j] = FitScaleAndMin(sub, weights, search, codes + 32 * j);
    max_scale = std::max(max_scale, fits[j].scale);
    max_min = std::max(max_min, fits[j].min);
  }
  const float inverse_scale = max_scale > 0 ? 63.0f / max_scale : 0.0f;
  const float inverse_min = max_min > 0 ? 63.0f / max_min : 0.0f;
  uint8_t scales[8], mins[8];
  for (int j = 0; j < 8; ++j) {
    scales[j] = std::min<uint8_t>(63, static_cast<uint8_t>(NearestInt(inverse_scale * fits[j].scale)));
    mins[j] = std::min<uint8_t>(63, static_cast<uint8_t>(NearestInt(inverse_min * fits[j].min)));
  }
  const uint16_t d = FloatToHalf(max_scale / 63.0f), dmin = FloatToHalf(max_min / 63.0f);
  Store16(d, head);
  Store16(dmin, head + 2);
  PackScales(scales, mins, head + 4);
  for (int j = 0; j < 8; ++j) {  // the final codes, of the scales as stored
    const float scale = HalfToFloat(d) * static_cast<float>(scales[j]);
    if (scale == 0.0f) continue;
    const float min = HalfToFloat(dmin) * static_cast<float>(mins[j]);
    for (int i = 32 * j; i < 32 * (j + 1); ++i) {
      codes[i] = static_cast<uint8_t>(std::clamp(NearestInt((x[i] + min) / scale), 0, search.max_code));
    }
  }
}

// Scale of 16 numbers around zero with codes -32..31: the candidate of the least error weighted by x^2.
float FitScale(const float* x, uint8_t* codes) {
  constexpr int kHalf = 32;
  float extreme = 0;
  for (int i = 0; i < 16; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  std::fill(codes, codes + 16, uint8_t{0});
  if (std::fabs(extreme) < kNoWeight) return 0.0f;
  float scale = 0, best = 0;
  for (int n = 0; n < 19; ++n) {  // 0, then -9 to 9 without it
    const int step = n == 0 ? 0 : n <= 9 ? n - 10 : n - 9;
    const float inverse = step == 0 ? -static_cast<float>(kHalf) / extreme
                                    : -(static_cast<float>(kHalf) + 0.1f * static_cast<float>(step)) / extreme;
    float sum_lx = 0, sum_l2 = 0;
    int8_t tried[16];
    for (int i = 0; i < 16; ++i) {
      tried[i] = static_cast<int8_t>(std::clamp(NearestInt(inverse * x[i]), -kHalf, kHalf - 1));
      const float l = tried[i], w = x[i] * x[i];
      sum_lx += w * x[i] * l;
      sum_l2 += w * l * l;
    }
    const bool better = n == 0 || (sum_l2 > 0 && sum_lx * sum_lx > best * sum_l2);
    if (!better) continue;
    for (int i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>(tried[i] + kHalf);
    scale = sum_l2 != 0 ? sum_lx / sum_l2 : 0.0f;
    best = scale * sum_lx;
  }
  return scale;
}

void StoreQ6Codes(const uint8_t* codes, uint8_t* low, uint8_t* high) {
  for (int half = 0; half < 2; ++half, codes += 128, low += 64, high += 32) {
    for (int i = 0; i < 32; ++i) {
      low[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 64] & 15) << 4);
      low[i + 32] = static_cast<uint8_t>((codes[i + 32] & 15) | (codes[i + 96] & 15) << 4);
      high[i] = static_cast<uint8_t>(codes[i] >> 4 | (codes[i + 32] >> 4) << 2 | (codes[i + 64] >> 4) << 4 |
                                     (codes[i + 96] >> 4) << 6);
    }
  }
}

}  // namespace

void EncodeQ4_K(const float* in, uint8_t* out) {
  uint8_t codes[256];
  ScaleMinBlock(in, {15, -1.0f, 0.1f, 20}, out, codes);
  for (int i = 0; i < 128; ++i) {
    const uint8_t* pair = codes + i / 32 * 64 + i % 32;
    out[16 + i] = static_cast<uint8_t>(pair[0] | pair[32] << 4);
  }
}

void EncodeQ5_K(const float* in, uint8_t* out) {
  uint8_t codes[256];
  ScaleMinBlock(in, {31, -0.5f, 0.1f, 15}, out, codes);
  for (int i = 0; i < 32; ++i) {
    uint8_t high = 0;
    for (int j = 0; j < 8; ++j) high |= static_cast<uint8_t>((codes[32 * j + i] >> 4) << j);
    out[16 + i] = high;
  }
  for (int i = 0; i < 128; ++i) {
    const uint8_t* pair = codes + i / 32 * 64 + i % 32;
    out[48 + i] = static_cast<uint8_t>((pair[0] & 15) | (pair[32] & 15) << 4);
  }
}

void EncodeQ6_K(const float* in, uint8_t* out) {
  uint8_t codes[256];
  float scales[16], extreme = 0;
  for (int j = 0; j < 16; ++j) {
    scales[j] = FitScale(in + 16 * j, codes + 16 * j);
    if (std::fabs(scales[j]) > std::fabs(extreme)) extreme = scales[j];
  }
  std::fill(out, out + 210, uint8_t{0});
  if (std::fabs(extreme) < kNoWeight) return;
  const float inverse = -128.0f / extreme;
  const uint16_t d = FloatToHalf(1.0f / inverse);
  Store16(d, out + 208);
  for (int j = 0; j < 16; ++j) {
    const int8_t scale = static_cast<int8_t>(std::min(127, NearestInt(inverse * scales[j])));
    out[192 + j] = static_cast<uint8_t>(scale);
    const float step = HalfToFloat(d) * static_cast<float>(scale);
    if (step == 0.0f) continue;
    for (int i = 16 * j; i < 16 * (j + 1); ++i) {
      codes[i] = static_cast<uint8_t>(std::clamp(NearestInt(in[i] / step), -32, 31) + 32);
    }
  }
  StoreQ6Codes(codes, out, out + 128);
}

}  // namespace finetuned::format
