// 8-bit codes on the GPU. Compiled with -fmad=false: the bits equal those of the CPU.
#include <cuda_fp8.h>

#include "kernels/codes8_params.h"
#include "kernels/cuda_common.cuh"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlock = 64;          // weights per absmax
constexpr int kNestedBlock = 256;

// A code as its byte.
template <bool kFp8>
__device__ __forceinline__ uint32_t Code(float x, float limit) {
  const float bounded = fminf(fmaxf(x, -limit), limit);
  if constexpr (kFp8) {
    return __nv_cvt_float_to_fp8(bounded, __NV_SATFINITE, __NV_E4M3);
  } else {
    return static_cast<uint32_t>(__float2int_rn(bounded)) & 255u;
  }
}

// Two codes, the first in the low byte: one instruction from compute capability 8.9 on.
template <bool kFp8>
__device__ __forceinline__ uint32_t CodePair(float a, float b, float limit) {
  if constexpr (kFp8) {
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  } else {
    return Code<false>(a, limit) | Code<false>(b, limit) << 8;
  }
}

__device__ __forceinline__ float BlockMax(float x, float* shared) {
  x = WarpMax(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  return WarpMax(threadIdx.x % kWarp < kThreads / kWarp ? shared[threadIdx.x % kWarp] : 0.0f);
}

// A block takes a row: once for its largest magnitude, then, from the cache, for the codes.
template <typename T, bool kFp8, int kVec>
__global__ void __launch_bounds__(kThreads) quantize_rows_kernel(QuantizeRowsParams p) {
  __shared__ float shared[kThreads / kWarp];
  const int64_t m = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + m * p.stride;
  uint8_t* codes = static_cast<uint8_t*>(p.codes) + m * p.K;
  float largest = 0;
  for (int64_t k = threadIdx.x * kVec; k < p.K; k += kThreads * kVec) {
    const auto v = LoadVec<T, kVec>(x + k);
#pragma unroll
    for (int j = 0; j < kVec; ++j) largest = fmaxf(largest, fabsf(ToFloat(v.v[j])));
  }
  largest = BlockMax(largest, shared);
  const float scale = largest / p.limit, inverse = Codes8Inverse(scale);
  if (threadIdx.x == 0) p.scale[m] = scale;
  for (int64_t k = threadIdx.x * kVec; k < p.K; k += kThreads * kVec) {
    const auto v = LoadVec<T, kVec>(x + k);
    Vec<uint8_t, kVec> out;
    if constexpr (kVec == 1) {
      out.v[0] = static_cast<uint8_t>(Code<kFp8>(ToFloat(v.v[0]) * inverse, p.limit));
    } else {
#pragma unroll
      for (int j = 0; j < kVec; j += 2) {
        const uint32_t pair = CodePair<kFp8>(ToFloat(v.v[j]) * inverse, ToFloat(v.v[j + 1]) * inverse, p.limit);
        out.v[j] = static_cast<uint8_t>(pair);
        out.v[j + 1] = static_cast<uint8_t>(pair >> 8);
      }
    }
    StoreVec(codes + k, out);
  }
}

// What the blocks of a weight are multiplied by.
struct Absmax {
  const Nf4ToCodesParams& p;
  const float* nested_map;  // in shared memory
  __device__ __forceinline__ float operator()(int64_t block) const {
    if (p.absmax != nullptr) return p.absmax[block];
    return nested_map[p.absmax_q[block]] * p.absmax2[block / kNestedBlock] + p.offset;
  }
};

constexpr int kUnroll = 4;  // chunks of 8 per thread, kThreads apart, loaded before any is stored

// Rows: a thread makes 8 codes of one block of 64 from 4 bytes, kUnroll times.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) nf4_to_codes_kernel(Nf4ToCodesParams p) {
  __shared__ float code_map[16];
  __shared__ float nested_map[256];
  if (threadIdx.x < 16) code_map[threadIdx.x] = p.code_map[threadIdx.x];
  if (p.absmax == nullptr) nested_map[threadIdx.x] = p.nested_map[threadIdx.x];
  __syncthreads();
  const int64_t first = (int64_t{blockIdx.x} * (kThreads * kUnroll) + threadIdx.x) * 8;
  uint32_t words[kUnroll];
  float absmax[kUnroll], inverse[kUnroll];
  int64_t place[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t n = first + u * kThreads * 8;
    if (n >= p.O * p.I) break;
    const int64_t o = static_cast<uint32_t>(n) / static_cast<uint32_t>(p.I);
    words[u] = *reinterpret_cast<const uint32_t*>(p.nf4 + n / 2);
    absmax[u] = Absmax{p, nested_map}(n / kBlock);
    inverse[u] = Codes8Inverse(p.scale[o]);
    place[u] = o * p.stride + (n - o * p.I);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (first + u * kThreads * 8 >= p.O * p.I) break;
    Vec<uint8_t, 8> out;
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // bytes, high nibble first
      const uint32_t high = words[u] >> (8 * j + 4) & 15u, low = words[u] >> (8 * j) & 15u;
      const uint32_t pair = CodePair<kFp8>(code_map[high] * absmax[u] * inverse[u],
                                           code_map[low] * absmax[u] * inverse[u], p.limit);
      out.v[2 * j] = static_cast<uint8_t>(pair);
      out.v[2 * j + 1] = static_cast<uint8_t>(pair >> 8);
    }
    StoreVec(static_cast<uint8_t*>(p.codes) + place[u], out);
  }
}

constexpr int kTile = 64;
constexpr int kTiles = 4;  // of a block, below one another: the tables are loaded once

// Columns: a block transposes tiles of 64 x 64. A thread makes 4 rows of 4 columns, as a word per column.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) nf4_to_codes_transposed_kernel(Nf4ToCodesParams p) {
  __shared__ float code_map[16];
  __shared__ float nested_map[256];
  __shared__ uint32_t tile[kTile][kTile / 4 + 1];  // [column][four rows]
  if (threadIdx.x < 16) code_map[threadIdx.x] = p.code_map[threadIdx.x];
  if (p.absmax == nullptr) nested_map[threadIdx.x] = p.nested_map[threadIdx.x];
  const int64_t i0 = int64_t{blockIdx.x} * kTile;
  const int columns = threadIdx.x % 16 * 4, rows = threadIdx.x / 16 * 4;
  const int column = threadIdx.x / 4, part = threadIdx.x % 4 * 4;
  const auto scale = LoadVec<float, 4>(p.scale + i0 + columns);
  float inverse[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) inverse[c] = Codes8Inverse(scale.v[c]);
  for (int t = 0; t < kTiles; ++t) {
    const int64_t o0 = (int64_t{blockIdx.y} * kTiles + t) * kTile;
    if (o0 >= p.O) return;  // all threads
    __syncthreads();
    uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t n = (o0 + rows + r) * p.I + i0 + columns;
      const uint32_t four = *reinterpret_cast<const uint16_t*>(p.nf4 + n / 2);
      const float absmax = Absmax{p, nested_map}(n / kBlock);
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        const uint32_t high = four >> (4 * c + 4) & 15u, low = four >> (4 * c) & 15u;
        const uint32_t pair = CodePair<kFp8>(code_map[high] * absmax * inverse[c],
                                             code_map[low] * absmax * inverse[c + 1], p.limit);
        words[c] |= (pair & 255u) << (8 * r);
        words[c + 1] |= (pair >> 8) << (8 * r);
      }
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) tile[columns + c][rows / 4] = words[c];
    __syncthreads();
    Vec<uint32_t, 4> out;
#pragma unroll
    for (int j = 0; j < 4; ++j) out.v[j] = tile[column][part + j];
    uint8_t* to = static_cast<uint8_t*>(p.codes) + (i0 + column) * p.stride + o0 + part * 4;
    StoreVec(reinterpret_cast<uint32_t*>(to), out);
  }
}

// Any shape: a code per thread.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) nf4_to_codes_scalar_kernel(Nf4ToCodesParams p) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= p.O * p.I) return;
  const int64_t o = n / p.I, i = n - o * p.I;
  const float absmax = Absmax{p, p.nested_map}(n / kBlock);
  const int code = n % 2 == 0 ? p.nf4[n / 2] >> 4 : p.nf4[n / 2] & 15;
  const float inverse = Codes8Inverse(p.scale[p.transposed ? i : o]);
  uint8_t* to = static_cast<uint8_t*>(p.codes) + (p.transposed ? i * p.stride + o : o * p.stride + i);
  *to = static_cast<uint8_t>(Code<kFp8>(p.code_map[code] * absmax * inverse, p.limit));
}

// A thread scales 4 sums of a row.
template <typename T>
__global__ void __launch_bounds__(kThreads) scale_sums_kernel(ScaleSumsParams p) {
  const int64_t n = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  if (n >= p.M * p.N) return;
  const int64_t m = n / p.N, c = n - m * p.N;
  const auto sums = LoadVec<int32_t, 4>(p.sums + n);
  const auto scale = LoadVec<float, 4>(p.scale_n + c);
  const float row = p.scale_m[m];
  Vec<T, 4> y;
#pragma unroll
  for (int j = 0; j < 4; ++j) y.v[j] = FromFloat<T>(static_cast<float>(sums.v[j]) * row * scale.v[j]);
  StoreVec(static_cast<T*>(p.y) + m * p.y_stride + c, y);
}

unsigned Blocks(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

template <typename T, bool kFp8>
void LaunchRows(const QuantizeRowsParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  const unsigned blocks = static_cast<unsigned>(p.M);
  if (p.K % kVec == 0 && p.stride % kVec == 0 && Aligned16(p.x) && Aligned16(p.codes)) {
    quantize_rows_kernel<T, kFp8, kVec><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    quantize_rows_kernel<T, kFp8, 1><<<blocks, kThreads, 0, stream>>>(p);
  }
}

template <bool kFp8>
void LaunchNf4(const Nf4ToCodesParams& p, CudaStream stream) {
  const bool aligned = Aligned16(p.codes) && Aligned16(p.nf4) && Aligned16(p.scale) && p.stride % 16 == 0 &&
                       p.O * p.I < int64_t{1} << 32;
  if (aligned && !p.transposed && p.I % 8 == 0) {
    nf4_to_codes_kernel<kFp8><<<Blocks((p.O * p.I / 8 + kUnroll - 1) / kUnroll), kThreads, 0, stream>>>(p);
  } else if (aligned && p.transposed && p.I % kTile == 0 && p.O % kTile == 0) {
    const dim3 tiles(static_cast<unsigned>(p.I / kTile),
                     static_cast<unsigned>((p.O / kTile + kTiles - 1) / kTiles));
    nf4_to_codes_transposed_kernel<kFp8><<<tiles, kThreads, 0, stream>>>(p);
  } else {
    nf4_to_codes_scalar_kernel<kFp8><<<Blocks(p.O * p.I), kThreads, 0, stream>>>(p);
  }
}

}  // namespace

void QuantizeRowsCuda(const QuantizeRowsParams& p, Dtype dtype, bool fp8, CudaStream stream) {
  if (dtype == Dtype::kFloat32) {
    fp8 ? LaunchRows<float, true>(p, stream) : LaunchRows<float, false>(p, stream);
  } else {
    fp8 ? LaunchRows<__nv_bfloat16, true>(p, stream) : LaunchRows<__nv_bfloat16, false>(p, stream);
  }
}

void Nf4ToCodesCuda(const Nf4ToCodesParams& p, bool fp8, CudaStream stream) {
  fp8 ? LaunchNf4<true>(p, stream) : LaunchNf4<false>(p, stream);
}

void ScaleSumsCuda(const ScaleSumsParams& p, Dtype dtype, CudaStream stream) {
  const unsigned blocks = Blocks(p.M * p.N / 4);  // N is a multiple of 16
  if (dtype == Dtype::kFloat32) {
    scale_sums_kernel<float><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    scale_sums_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(p);
  }
}

}  // namespace finetuned::kernels
