// Attention of one new token over a paged cache, split over the sequence. A group of 8 lanes reads one token's key
// and value, 16 groups of a block walk the tokens of a part; their running softmaxes are merged at the end.
// Legend: see paged_attention.h.
#include <cfloat>

#include "kernels/cuda_common.cuh"
#include "kernels/paged_attention_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 8;                       // that share a token
constexpr int kGroups = kThreads / kLanes;      // tokens in flight in a block

// Query heads of a block: their queries and sums stay in registers.
template <int E>
constexpr int kHeads = E <= 128 ? 4 : 1;

// Grid: (tokens, parts of K * E / kVec vectors).
template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) write_paged_kernel(WritePagedParams p) {
  const int64_t t = blockIdx.x, i = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kVec;
  if (i >= p.K * p.E) return;
  const int64_t to = PagedOffset(p.index, t, PagedPosition(p.index, t), i / p.E, p.K, p.E) + i % p.E;
  StoreVec(static_cast<T*>(p.k_cache) + to, LoadVec<T, kVec>(static_cast<const T*>(p.k) + t * p.k_stride + i));
  StoreVec(static_cast<T*>(p.v_cache) + to, LoadVec<T, kVec>(static_cast<const T*>(p.v) + t * p.v_stride + i));
}

template <typename T, int kVec>
void LaunchWrite(const WritePagedParams& p, CudaStream stream) {
  const dim3 grid(static_cast<unsigned>(p.T), static_cast<unsigned>((p.K * p.E / kVec + kThreads - 1) / kThreads));
  write_paged_kernel<T, kVec><<<grid, kThreads, 0, stream>>>(p);
}

template <typename T>
void WriteTyped(const WritePagedParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  const bool wide = p.E % kVec == 0 && p.k_stride % kVec == 0 && p.v_stride % kVec == 0 && Aligned16(p.k) &&
                    Aligned16(p.v) && Aligned16(p.k_cache) && Aligned16(p.v_cache);
  wide ? LaunchWrite<T, kVec>(p, stream) : LaunchWrite<T, 1>(p, stream);
}

// E / 8 elements of a head, those of one lane: vectors of kVec, 8 * kVec apart, so that a group reads whole lines.
template <typename T, int E>
struct Slice {
  static constexpr int kCount = E / kLanes;
  static constexpr int kLongest = 16 / sizeof(T);
  static constexpr int kVec = kCount % kLongest == 0 ? kLongest : kCount % 4 == 0 ? 4 : 2;
  static_assert(kCount % kVec == 0);
  float v[kCount];

  __device__ __forceinline__ void Load(const T* head, int lane) {
#pragma unroll
    for (int i = 0; i < kCount / kVec; ++i) {
      const auto x = LoadVec<T, kVec>(head + (i * kLanes + lane) * kVec);
#pragma unroll
      for (int j = 0; j < kVec; ++j) v[i * kVec + j] = ToFloat(x.v[j]);
    }
  }
  __device__ static int Element(int index, int lane) {
    return (index / kVec * kLanes + lane) * kVec + index % kVec;
  }
};

// A running softmax of one query head: largest score, sum of weights, weighted values.
template <typename T, int E>
struct Running {
  float top = -FLT_MAX, sum = 0.0f;
  float acc[Slice<T, E>::kCount] = {};

  __device__ __forceinline__ void Add(float score, const Slice<T, E>& value) {
    if (score > top) {
      const float shrink = __expf(top - score);
      top = score;
      sum *= shrink;
#pragma unroll
      for (float& a : acc) a *= shrink;
    }
    const float w = __expf(score - top);
    sum += w;
#pragma unroll
    for (int i = 0; i < Slice<T, E>::kCount; ++i) acc[i] += w * value.v[i];
  }
};

__device__ __forceinline__ float GroupSum(float x) {
#pragma unroll
  for (int d = kLanes / 2; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
  return x;
}

// Merges what the 16 groups of the block hold of one head, and writes the result or the part.
template <typename T, int E>
__device__ void MergeHead(const PagedAttentionParams& p, int64_t row, int64_t head, int64_t split,
                          const Running<T, E>& mine, float* shared) {
  const int group = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  float* top = shared;             // [groups]
  float* sum = shared + kGroups;   // [groups]
  float* acc = sum + kGroups;      // [groups, E]
  __syncthreads();
  if (lane == 0) {
    top[group] = mine.top;
    sum[group] = mine.sum;
  }
#pragma unroll
  for (int i = 0; i < Slice<T, E>::kCount; ++i) {
    acc[group * E + Slice<T, E>::Element(i, lane)] = mine.acc[i];
  }
  __syncthreads();
  float all_top = -FLT_MAX, all_sum = 0.0f;
  for (int g = 0; g < kGroups; ++g) all_top = fmaxf(all_top, top[g]);
  for (int g = 0; g < kGroups; ++g) all_sum += sum[g] * __expf(top[g] - all_top);
  float* part = p.partial + ((row * p.H + head) * p.splits + split) * (E + 2);
  for (int e = threadIdx.x; e < E; e += kThreads) {
    float value = 0.0f;
    for (int g = 0; g < kGroups; ++g) value += acc[g * E + e] * __expf(top[g] - all_top);
    if (p.splits == 1) {
      static_cast<T*>(p.out)[row * p.out_stride + head * E + e] = FromFloat<T>(value / all_sum);
    } else {
      part[e] = value;
    }
  }
  if (p.splits > 1 && threadIdx.x == 0) {
    part[E] = all_top;
    part[E + 1] = all_sum;
  }
}

// Grid: (head groups of all key/value heads, rows, splits).
template <typename T, int E>
__global__ void __launch_bounds__(kThreads) paged_attention_kernel(PagedAttentionParams p) {
  extern __shared__ float shared[];
  const int64_t per_kv = p.H / p.K;
  const int64_t chunks = (per_kv + kHeads<E> - 1) / kHeads<E>;
  const int64_t kv = blockIdx.x / chunks, first = blockIdx.x % chunks * kHeads<E>;
  const int count = static_cast<int>(per_kv - first < kHeads<E> ? per_kv - first : kHeads<E>);
  const int64_t head = kv * per_kv + first, row = blockIdx.y, split = blockIdx.z;
  const int group = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;

  Slice<T, E> q[kHeads<E>];
  for (int h = 0; h < kHeads<E>; ++h) {
    const int64_t used = head + (h < count ? h : 0);
    q[h].Load(static_cast<const T*>(p.q) + row * p.q_stride + used * E, lane);
  }
  const int64_t tokens = PagedPosition(p.index, row) + 1;
  const int64_t seen = PagedFirst(p, tokens);
  const int64_t per_split = (tokens - seen + p.splits - 1) / p.splits;
  const int64_t begin = seen + split * per_split;
  const int64_t end = begin + per_split < tokens ? begin + per_split : tokens;

  Running<T, E> running[kHeads<E>];
  // All lanes of a warp stay in the loop: the sums over a group need them.
  for (int64_t base = begin; base < end; base += kGroups) {
    const int64_t t = base + group;
    const bool valid = t < end;
    const int64_t at = PagedOffset(p.index, row, valid ? t : base, kv, p.K, E);
    Slice<T, E> k, v;
    k.Load(static_cast<const T*>(p.k_cache) + at, lane);
    v.Load(static_cast<const T*>(p.v_cache) + at, lane);
#pragma unroll
    for (int h = 0; h < kHeads<E>; ++h) {
      float dot = 0.0f;
#pragma unroll
      for (int i = 0; i < Slice<T, E>::kCount; ++i) dot += q[h].v[i] * k.v[i];
      dot = GroupSum(dot) * p.scale;
      if (p.softcap > 0.0f) dot = p.softcap * tanhf(dot / p.softcap);
      if (valid) running[h].Add(dot, v);
    }
  }
  for (int h = 0; h < count; ++h) {
    // Registers cannot be indexed by a variable.
#pragma unroll
    for (int i = 0; i < kHeads<E>; ++i) {
      if (i == h) MergeHead<T, E>(p, row, head + i, split, running[i], shared);
    }
  }
}

// Grid: (H, B).
template <typename T>
__global__ void __launch_bounds__(kThreads) merge_parts_kernel(PagedAttentionParams p) {
  const int64_t head = blockIdx.x, row = blockIdx.y;
  const float* parts = p.partial + (row * p.H + head) * p.splits * (p.E + 2);
  float top = -FLT_MAX, sum = 0.0f;
  for (int64_t s = 0; s < p.splits; ++s) top = fmaxf(top, parts[s * (p.E + 2) + p.E]);
  for (int64_t s = 0; s < p.splits; ++s) {
    const float* part = parts + s * (p.E + 2);
    sum += part[p.E + 1] * __expf(part[p.E] - top);
  }
  for (int64_t e = threadIdx.x; e < p.E; e += kThreads) {
    float value = 0.0f;
    for (int64_t s = 0; s < p.splits; ++s) {
      const float* part = parts + s * (p.E + 2);
      value += part[e] * __expf(part[p.E] - top);
    }
    static_cast<T*>(p.out)[row * p.out_stride + head * p.E + e] = FromFloat<T>(value / sum);
  }
}

template <typename T, int E>
void Launch(const PagedAttentionParams& p, CudaStream stream) {
  const int64_t per_kv = p.H / p.K;
  const dim3 grid(static_cast<unsigned>(p.K * ((per_kv + kHeads<E> - 1) / kHeads<E>)),
                  static_cast<unsigned>(p.B), static_cast<unsigned>(p.splits));
  const size_t shared = sizeof(float) * kGroups * (E + 2);  // at most 16.1 KiB
  paged_attention_kernel<T, E><<<grid, kThreads, shared, stream>>>(p);
  if (p.splits == 1) return;
  const dim3 heads(static_cast<unsigned>(p.H), static_cast<unsigned>(p.B));
  merge_parts_kernel<T><<<heads, kThreads, 0, stream>>>(p);
}

template <typename T>
void LaunchTyped(const PagedAttentionParams& p, CudaStream stream) {
  switch (p.E) {
    case 16: return Launch<T, 16>(p, stream);
    case 32: return Launch<T, 32>(p, stream);
    case 64: return Launch<T, 64>(p, stream);
    case 96: return Launch<T, 96>(p, stream);
    case 128: return Launch<T, 128>(p, stream);
    default: return Launch<T, 256>(p, stream);
  }
}

}  // namespace

void WritePagedCuda(const WritePagedParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? WriteTyped<float>(p, stream) : WriteTyped<__nv_bfloat16>(p, stream);
}

void PagedAttentionCuda(const PagedAttentionParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? LaunchTyped<float>(p, stream) : LaunchTyped<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
