// 4-bit weights on the GPU. Compiled with -fmad=false: the bits equal those of the CPU.
#include "kernels/blockwise8_math.h"
#include "kernels/cuda_common.cuh"
#include "kernels/nf4_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kBlock = 64;
constexpr int kNestedBlock = 256;
constexpr int kThreads = 256;

__device__ __forceinline__ int FourBitCode(const FourBitTable& table, float x) {
  int place = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) place += table.middles[i] < x ? 1 : 0;
  return table.codes[place];
}

// A warp quantizes a block of 64 weights, a lane two of them.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nf4_quantize_kernel(const __grid_constant__ Nf4QuantizeParams p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t block = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  const int64_t i = block * kBlock + 2 * lane;
  if (block * kBlock >= p.n) return;
  const T* w = static_cast<const T*>(p.w);
  const float a = i < p.n ? ToFloat(w[i]) : 0.0f;
  const float b = i + 1 < p.n ? ToFloat(w[i + 1]) : 0.0f;
  const float absmax = WarpMax(fmaxf(fabsf(a), fabsf(b)));
  const float divisor = fmaxf(absmax, kNf4SmallestAbsmax);
  const bool full = (block + 1) * kBlock <= p.n;
  if (lane == 0) p.absmax[block] = full ? absmax : divisor;
  const float inverse = 1.0f / divisor;
  const int high = FourBitCode(p.table, full ? a * inverse : a / divisor);
  const int low = FourBitCode(p.table, full ? b * inverse : b / divisor);
  if (i < p.n) p.codes[i / 2] = static_cast<uint8_t>(high << 4 | low);
}

// A block of 256 threads quantizes 256 absmax values.
__global__ void __launch_bounds__(kNestedBlock) nf4_nest_kernel(Nf4NestParams p) {
  __shared__ float map[kNestedBlock];
  __shared__ float warp_top[kNestedBlock / kWarp];
  const int64_t b = int64_t{blockIdx.x} * kNestedBlock + threadIdx.x;
  map[threadIdx.x] = p.nested_map[threadIdx.x];
  const float x = b < p.B ? p.absmax[b] - p.offset : 0.0f;
  float top = WarpMax(fabsf(x));
  if (threadIdx.x % kWarp == 0) warp_top[threadIdx.x / kWarp] = top;
  __syncthreads();
  for (int w = 0; w < kNestedBlock / kWarp; ++w) top = fmaxf(top, warp_top[w]);
  if (threadIdx.x == 0) p.absmax2[blockIdx.x] = top;
  if (b >= p.B) return;
  const float inverse = 1.0f / top;
  p.absmax_q[b] = top == 0.0f ? 0 : static_cast<uint8_t>(NearestCodeOfBin(map, x * inverse));
}

// Elements a thread makes at once: one 16-byte store of bfloat16, two of float32, from 4 bytes of
// codes. All 8 lie in one block of 64.
constexpr int kChunk = 8;
constexpr int kUnroll = 4;  // chunks per thread, kThreads apart, loaded before any is stored

// Where element i of the weight goes. A matrix has fewer than 2^32 elements (checked by the launch).
__device__ __forceinline__ int64_t OutIndex(const Nf4DequantizeParams& p, int64_t i) {
  if (p.row_stride == p.columns) return i;
  const uint32_t row = static_cast<uint32_t>(i) / static_cast<uint32_t>(p.columns);
  return i + row * (p.row_stride - p.columns);
}

// kNested: absmax is rebuilt from absmax_q. The table of 16 values lies in 16 banks: lookups never
// conflict.
template <typename T, bool kNested>
__global__ void __launch_bounds__(kThreads) nf4_dequantize_kernel(Nf4DequantizeParams p) {
  __shared__ float code_map[16];
  __shared__ float nested_map[256];
  if (threadIdx.x < 16) code_map[threadIdx.x] = p.code_map[threadIdx.x];
  if (kNested) nested_map[threadIdx.x] = p.nested_map[threadIdx.x];
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * (kThreads * kUnroll) + threadIdx.x;
  uint32_t codes[kUnroll];
  float absmax[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t chunk = first + u * kThreads;
    if ((chunk + 1) * kChunk > p.n) break;
    codes[u] = reinterpret_cast<const uint32_t*>(p.codes)[chunk];
    const int64_t block = chunk / (kBlock / kChunk);
    if (kNested) {
      absmax[u] = nested_map[p.absmax_q[block]] * p.absmax2[block / kNestedBlock] + p.offset;
    } else {
      absmax[u] = p.absmax[block];
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t chunk = first + u * kThreads;
    if ((chunk + 1) * kChunk > p.n) break;
    Vec<T, kChunk> out;
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      // Byte j/2 of the little-endian word, high nibble first.
      const uint32_t code = codes[u] >> (8 * (j / 2) + (j % 2 == 0 ? 4 : 0)) & 15u;
      out.v[j] = FromFloat<T>(code_map[code] * absmax[u]);
    }
    StoreVec(static_cast<T*>(p.out) + OutIndex(p, chunk * kChunk), out);
  }
}

// Elements [begin, n) one by one: the last ones, or all when pointers are not aligned.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nf4_dequantize_scalar_kernel(Nf4DequantizeParams p, int64_t begin) {
  const int64_t i = begin + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.n) return;
  const int64_t block = i / kBlock;
  float absmax;
  if (p.absmax_q) {
    absmax = p.nested_map[p.absmax_q[block]] * p.absmax2[block / kNestedBlock] + p.offset;
  } else {
    absmax = p.absmax[block];
  }
  const uint8_t byte = p.codes[i / 2];
  const int code = i % 2 == 0 ? byte >> 4 : byte & 15;
  static_cast<T*>(p.out)[OutIndex(p, i)] = FromFloat<T>(p.code_map[code] * absmax);
}

unsigned Blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

template <typename T>
void LaunchDequantize(const Nf4DequantizeParams& p, CudaStream stream) {
  int64_t done = 0;
  const bool whole_rows =
      p.row_stride == p.columns || (p.columns % kChunk == 0 && p.row_stride % kChunk == 0);
  if (whole_rows && Aligned16(p.out) && reinterpret_cast<uintptr_t>(p.codes) % 4 == 0 &&
      p.n >= kChunk) {
    done = p.n / kChunk * kChunk;
    const unsigned blocks = Blocks(p.n / kChunk, kThreads * kUnroll);
    if (p.absmax_q) {
      nf4_dequantize_kernel<T, true><<<blocks, kThreads, 0, stream>>>(p);
    } else {
      nf4_dequantize_kernel<T, false><<<blocks, kThreads, 0, stream>>>(p);
    }
  }
  if (done < p.n) {
    const unsigned blocks = Blocks(p.n - done, kThreads);
    nf4_dequantize_scalar_kernel<T><<<blocks, kThreads, 0, stream>>>(p, done);
  }
}

template <typename T>
void LaunchQuantize(const Nf4QuantizeParams& p, CudaStream stream) {
  const unsigned blocks = Blocks((p.n + kBlock - 1) / kBlock, kThreads / kWarp);
  nf4_quantize_kernel<T><<<blocks, kThreads, 0, stream>>>(p);
}

}  // namespace

void Nf4QuantizeCuda(const Nf4QuantizeParams& p, Dtype dtype, CudaStream stream) {
  switch (dtype) {
    case Dtype::kBFloat16:
      return LaunchQuantize<__nv_bfloat16>(p, stream);
    case Dtype::kFloat16:
      return LaunchQuantize<__half>(p, stream);
    default:
      return LaunchQuantize<float>(p, stream);
  }
}

void Nf4NestCuda(const Nf4NestParams& p, CudaStream stream) {
  nf4_nest_kernel<<<Blocks(p.B, kNestedBlock), kNestedBlock, 0, stream>>>(p);
}

void Nf4DequantizeCuda(const Nf4DequantizeParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? LaunchDequantize<float>(p, stream)
                           : LaunchDequantize<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
