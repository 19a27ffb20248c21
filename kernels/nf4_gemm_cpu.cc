// Truth of the NF4 product: a row of the weight at a time is dequantized and multiplied with all rows of x.
#include <ATen/Parallel.h>

#include <vector>

#include "kernels/nf4_gemm_params.h"

namespace finetuned::kernels {
namespace {

void DequantizeRow(const Nf4GemmParams& p, const Nf4GemmPart& part, int64_t row, float* out) {
  const uint8_t* codes = part.codes + row * p.I / 2;
  for (int64_t block = 0; block < p.I / 64; ++block) {
    const float absmax = Nf4BlockMax(part, p.nested_map, row * (p.I / 64) + block);
    float values[16];
    for (int c = 0; c < 16; ++c) values[c] = p.code_map[c] * absmax;
    for (int64_t i = 0; i < 32; ++i) {
      const uint8_t byte = codes[block * 32 + i];
      out[block * 64 + 2 * i] = values[byte >> 4];
      out[block * 64 + 2 * i + 1] = values[byte & 15];
    }
  }
}

float Dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

float LowRank(const Nf4GemmParams& p, int64_t m, int64_t o) {
  float sum = 0;
  for (int i = 0; i < p.num_low_rank; ++i) {
    const Nf4GemmLowRankPart& part = p.low_rank[i];
    if (o < part.first_row || o >= part.first_row + part.rows) continue;
    const float* b = static_cast<const float*>(part.b) + (o - part.first_row) * part.rank;
    sum += Dot(static_cast<const float*>(p.u) + m * p.u_stride + part.first_column, b, part.rank);
  }
  return p.scale * sum;
}

}  // namespace

void Nf4GemmCpu(const Nf4GemmParams& p) {
  for (int i = 0; i < p.num_parts; ++i) {
    const Nf4GemmPart& part = p.parts[i];
    at::parallel_for(0, part.rows, 16, [&](int64_t begin, int64_t end) {
      std::vector<float> weight(static_cast<size_t>(p.I));
      for (int64_t row = begin; row < end; ++row) {
        DequantizeRow(p, part, row, weight.data());
        const int64_t o = part.first_row + row;
        for (int64_t m = 0; m < p.M; ++m) {
          float sum = Dot(static_cast<const float*>(p.x) + m * p.x_stride, weight.data(), p.I);
          if (p.u != nullptr) sum += LowRank(p, m, o);
          if (p.bias != nullptr) sum += static_cast<const float*>(p.bias)[o];
          static_cast<float*>(p.y)[m * p.y_stride + o] = sum;
        }
      }
    });
  }
}

}  // namespace finetuned::kernels
