// Truth of the 4-bit quantization. Compiled without contraction into fused multiply-adds: the bits
// are compared with bitsandbytes and with the CUDA kernels.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>

#include "kernels/blockwise8_math.h"
#include "kernels/nf4_params.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kNestedBlock = 256;

int FourBitCode(const FourBitTable& table, float x) {
  int place = 0;
  for (float middle : table.middles) place += middle < x;
  return table.codes[place];
}

// A full block is multiplied by the reciprocal of its absmax, the last short block of a tensor is
// divided by it and stores the floored absmax, as the oracle does.
template <typename T>
void QuantizeBlock(const Nf4QuantizeParams& p, int64_t block) {
  const T* w = static_cast<const T*>(p.w) + block * kBlock;
  const int64_t count = std::min(kBlock, p.n - block * kBlock);
  float absmax = 0;
  for (int64_t i = 0; i < count; ++i) absmax = std::max(absmax, std::fabs(float(w[i])));
  const float divisor = std::max(absmax, kNf4SmallestAbsmax);
  const bool full = count == kBlock;
  p.absmax[block] = full ? absmax : divisor;
  const float inverse = 1.0f / divisor;
  uint8_t codes[kBlock];
  std::fill(codes, codes + kBlock, static_cast<uint8_t>(FourBitCode(p.table, 0.0f)));
  for (int64_t i = 0; i < count; ++i) {
    const float x = full ? float(w[i]) * inverse : float(w[i]) / divisor;
    codes[i] = static_cast<uint8_t>(FourBitCode(p.table, x));
  }
  uint8_t* out = p.codes + block * kBlock / 2;
  for (int64_t i = 0; i < (count + 1) / 2; ++i) out[i] = codes[2 * i] << 4 | codes[2 * i + 1];
}

template <typename T>
void Quantize(const Nf4QuantizeParams& p) {
  at::parallel_for(0, (p.n + kBlock - 1) / kBlock, 256, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) QuantizeBlock<T>(p, block);
  });
}

float BlockAbsmax(const Nf4DequantizeParams& p, int64_t block) {
  if (!p.absmax_q) return p.absmax[block];
  return p.nested_map[p.absmax_q[block]] * p.absmax2[block / kNestedBlock] + p.offset;
}

template <typename T>
void Dequantize(const Nf4DequantizeParams& p) {
  at::parallel_for(0, (p.n + kBlock - 1) / kBlock, 256, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const float absmax = BlockAbsmax(p, block);
      T table[16];
      for (int i = 0; i < 16; ++i) table[i] = static_cast<T>(p.code_map[i] * absmax);
      const int64_t first = block * kBlock, last = std::min(p.n, first + kBlock);
      T* out = static_cast<T*>(p.out);
      for (int64_t i = first; i < last;) {
        // The part of the block that lies in one row.
        const int64_t row = i / p.columns, end = std::min(last, (row + 1) * p.columns);
        T* to = out + row * (p.row_stride - p.columns);
        for (; i < end; ++i) {
          const uint8_t byte = p.codes[i / 2];
          to[i] = table[i % 2 == 0 ? byte >> 4 : byte & 15];
        }
      }
    }
  });
}

}  // namespace

void Nf4QuantizeCpu(const Nf4QuantizeParams& p, Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return Quantize<c10::BFloat16>(p);
    case Dtype::kFloat16:
      return Quantize<c10::Half>(p);
    default:
      return Quantize<float>(p);
  }
}

void Nf4NestCpu(const Nf4NestParams& p) {
  for (int64_t first = 0; first < p.B; first += kNestedBlock) {
    const int64_t last = std::min(p.B, first + kNestedBlock);
    float top = 0;
    for (int64_t b = first; b < last; ++b) top = std::max(top, std::fabs(p.absmax[b] - p.offset));
    p.absmax2[first / kNestedBlock] = top;
    const float inverse = 1.0f / top;
    for (int64_t b = first; b < last; ++b) {
      const float x = (p.absmax[b] - p.offset) * inverse;
      p.absmax_q[b] = top == 0 ? 0 : static_cast<uint8_t>(NearestCodeOfBin(p.nested_map, x));
    }
  }
}

void Nf4DequantizeCpu(const Nf4DequantizeParams& p, Dtype dtype) {
  dtype == Dtype::kFloat32 ? Dequantize<float>(p) : Dequantize<c10::BFloat16>(p);
}

}  // namespace finetuned::kernels
