// Optimizer steps over lists of tensors. Compiled with -fmad=false: bits equal those of the CPU.
#include "kernels/adamw_params.h"
#include "kernels/cuda_common.cuh"
#include "kernels/multi_tensor.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;
constexpr int kElements = kThreads * kPerThread;  // of one tensor, per block
constexpr int kStateBlock = 256;                  // = kWarp * kPerThread

// 48 and 64 bytes per entry: both lists stay below the 32,764 bytes of kernel parameters.
using Batch = TensorBatch<AdamWTensor, 640>;
using Batch8bit = TensorBatch<Adam8bitTensor, 480>;
static_assert(sizeof(Batch) + sizeof(AdamWScalars) < 32000);
static_assert(sizeof(Batch8bit) + sizeof(AdamWScalars) + 16 < 32000);

__device__ __forceinline__ bool Skipped(const AdamWScalars& s) { return s.skip && *s.skip != 0.0f; }
__device__ __forceinline__ float GradScale(const AdamWScalars& s) {
  return s.grad_scale ? *s.grad_scale : 1.0f;
}

__device__ __forceinline__ void Element(const AdamWScalars& s, float g, float* p, float* m,
                                        float* v) {
  if (s.bnb) {
    const Moments x = BnbMoments(s, g, *m, *v);
    *m = x.m;
    *v = x.v;
    *p = BnbParameter(s, *p, x);
  } else {
    TorchAdamWElement(s, g, p, m, v);
  }
}

__device__ __forceinline__ bool DeviceAligned16(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const __grid_constant__ Batch batch, const __grid_constant__ AdamWScalars s) {
  if (Skipped(s)) return;
  const float scale = GradScale(s);
  const int index = EntryOfBlock(batch, blockIdx.x);
  const AdamWTensor t = batch.entry[index];
  const int block = static_cast<int>(blockIdx.x) - batch.first_block[index];
  const int64_t begin = int64_t{block} * kElements;
  const bool aligned =
      DeviceAligned16(t.p) && DeviceAligned16(t.g) && DeviceAligned16(t.m) && DeviceAligned16(t.v);
  if (aligned && begin + kElements <= t.n) {
#pragma unroll
    for (int u = 0; u < kPerThread / 4; ++u) {
      const int64_t i = begin + int64_t{u * kThreads + static_cast<int>(threadIdx.x)} * 4;
      auto p = LoadVec<float, 4>(t.p + i);
      auto m = LoadVec<float, 4>(t.m + i);
      auto v = LoadVec<float, 4>(t.v + i);
      const auto g = LoadVec<float, 4>(t.g + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) Element(s, g.v[j] * scale, &p.v[j], &m.v[j], &v.v[j]);
      StoreVec(t.p + i, p);
      StoreVec(t.m + i, m);
      StoreVec(t.v + i, v);
    }
    return;
  }
  for (int64_t i = begin + threadIdx.x; i < begin + kElements && i < t.n; i += kThreads) {
    Element(s, t.g[i] * scale, t.p + i, t.m + i, t.v + i);
  }
}

// A warp owns a state block of 256 elements, a lane 8 neighbouring ones.
template <bool kFull>
__device__ void Step8bit(const Adam8bitTensor& t, const AdamWScalars& s, float scale,
                         const float* signed_map, const float* unsigned_map, int64_t block) {
  const int64_t begin = block * kStateBlock + threadIdx.x % kWarp * kPerThread;
  Vec<float, kPerThread> g, p;
  Vec<uint8_t, kPerThread> m_codes, v_codes;
  if constexpr (kFull) {
    g = LoadVec<float, kPerThread>(t.g + begin);
    p = LoadVec<float, kPerThread>(t.p + begin);
    m_codes = LoadVec<uint8_t, kPerThread>(t.m_codes + begin);
    v_codes = LoadVec<uint8_t, kPerThread>(t.v_codes + begin);
  } else {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const bool in = begin + j < t.n;
      g.v[j] = in ? t.g[begin + j] : 0.0f;
      p.v[j] = in ? t.p[begin + j] : 0.0f;
      m_codes.v[j] = in ? t.m_codes[begin + j] : 127;  // 0 in the signed map
      v_codes.v[j] = in ? t.v_codes[begin + j] : 0;    // 0 in the unsigned map
    }
  }
  const float absmax_m = t.m_absmax[block], absmax_v = t.v_absmax[block];
  Moments x[kPerThread];
  float top_m = 0.0f, top_v = 0.0f;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    x[j] = {0.0f, 0.0f};
    if (IsFinite(g.v[j])) {
      x[j] = BnbMoments(s, g.v[j] * scale, signed_map[m_codes.v[j]] * absmax_m,
                        unsigned_map[v_codes.v[j]] * absmax_v);
      p.v[j] = BnbParameter(s, p.v[j], x[j]);
    }
    top_m = fmaxf(top_m, fabsf(x[j].m));
    top_v = fmaxf(top_v, fabsf(x[j].v));
  }
  top_m = WarpMax(top_m);
  top_v = WarpMax(top_v);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    m_codes.v[j] = static_cast<uint8_t>(SignedCode(signed_map, x[j].m, top_m));
    v_codes.v[j] = static_cast<uint8_t>(UnsignedCode(unsigned_map, x[j].v, top_v));
  }
  if (threadIdx.x % kWarp == 0) {
    t.m_absmax[block] = top_m;
    t.v_absmax[block] = top_v;
  }
  if constexpr (kFull) {
    StoreVec(t.p + begin, p);
    StoreVec(t.m_codes + begin, m_codes);
    StoreVec(t.v_codes + begin, v_codes);
  } else {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (begin + j >= t.n) break;
      t.p[begin + j] = p.v[j];
      t.m_codes[begin + j] = m_codes.v[j];
      t.v_codes[begin + j] = v_codes.v[j];
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    adamw_8bit_kernel(const __grid_constant__ Batch8bit batch,
                      const __grid_constant__ AdamWScalars s, const float* signed_map_in,
                      const float* unsigned_map_in) {
  __shared__ float signed_map[kThreads];
  __shared__ float unsigned_map[kThreads];
  if (Skipped(s)) return;
  signed_map[threadIdx.x] = signed_map_in[threadIdx.x];
  unsigned_map[threadIdx.x] = unsigned_map_in[threadIdx.x];
  __syncthreads();
  const int index = EntryOfBlock(batch, blockIdx.x);
  const Adam8bitTensor t = batch.entry[index];
  const int64_t block =
      int64_t{static_cast<int>(blockIdx.x) - batch.first_block[index]} * (kThreads / kWarp) +
      threadIdx.x / kWarp;
  if (block * kStateBlock >= t.n) return;  // a whole warp
  const bool aligned = DeviceAligned16(t.p) && DeviceAligned16(t.g) && DeviceAligned16(t.m_codes) &&
                       DeviceAligned16(t.v_codes);
  if (aligned && (block + 1) * kStateBlock <= t.n) {
    Step8bit<true>(t, s, GradScale(s), signed_map, unsigned_map, block);
  } else {
    Step8bit<false>(t, s, GradScale(s), signed_map, unsigned_map, block);
  }
}

}  // namespace

void AdamWCuda(const std::vector<AdamWTensor>& tensors, const AdamWScalars& s, CudaStream stream) {
  Batch batch;
  for (size_t next = 0; next < tensors.size();) {
    next = FillBatch(tensors, next, kElements, batch);
    if (batch.count == 0) continue;
    adamw_kernel<<<batch.first_block[batch.count], kThreads, 0, stream>>>(batch, s);
  }
}

void Adam8bitCuda(const std::vector<Adam8bitTensor>& tensors, const AdamWScalars& s,
                  const float* signed_map, const float* unsigned_map, CudaStream stream) {
  Batch8bit batch;
  for (size_t next = 0; next < tensors.size();) {
    next = FillBatch(tensors, next, kElements, batch);
    if (batch.count == 0) continue;
    adamw_8bit_kernel<<<batch.first_block[batch.count], kThreads, 0, stream>>>(batch, s, signed_map,
                                                                               unsigned_map);
  }
}

}  // namespace finetuned::kernels
