// Cross entropy of a chunk of logits: a block per row, one pass for maximum and sums (online
// softmax), one for the gradient. Legend: C rows, V vocabulary size.
#include <cfloat>

#include "kernels/cross_entropy_params.h"
#include "kernels/cuda_common.cuh"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;

template <typename T>
constexpr int kVec = 16 / sizeof(T);

// A row cut into an unaligned head, 16-byte vectors, and a tail: rows of an odd vocabulary start
// anywhere.
template <typename T>
struct RowParts {
  int64_t head;     // scalar elements before the first vector
  int64_t vectors;  // count

  __device__ RowParts(const T* row, int64_t V) {
    const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16);
    head = (16 - misaligned) % 16 / static_cast<int64_t>(sizeof(T));
    head = head < V ? head : V;
    vectors = (V - head) / kVec<T>;
  }
  __device__ int64_t TailBegin() const { return head + vectors * kVec<T>; }
};

// What one pass gathers; Merge combines two disjoint sets of elements.
struct Stats {
  float top;
  float sum;     // of e^(x - top)
  float sum_ex;  // of e^(x - top) * x
  float sum_x;   // of x
  int64_t arg;   // first index of top

  __device__ static Stats Empty() { return {-FLT_MAX, 0.0f, 0.0f, 0.0f, INT64_MAX}; }

  template <typename T, bool kExtra>
  __device__ __forceinline__ void Rescale(float new_top) {
    const float f = Exp<T>(top - new_top);
    sum *= f;
    if constexpr (kExtra) sum_ex *= f;
    top = new_top;
  }

  template <typename T, bool kExtra>
  __device__ __forceinline__ void Add(float x) {
    const float e = Exp<T>(x - top);
    sum += e;
    sum_x += x;
    if constexpr (kExtra) sum_ex += e > 0.0f ? e * x : 0.0f;
  }

  template <typename T, bool kExtra>
  __device__ __forceinline__ void AddScalar(float x, int64_t index) {
    if (x > top) {
      Rescale<T, kExtra>(x);
      arg = index;
    } else if (x == top && index < arg) {
      arg = index;
    }
    Add<T, kExtra>(x);
  }

  template <typename T, bool kExtra>
  __device__ __forceinline__ void Merge(const Stats& o) {
    const float new_top = fmaxf(top, o.top);
    const float f = Exp<T>(top - new_top), g = Exp<T>(o.top - new_top);
    sum = sum * f + o.sum * g;
    sum_x += o.sum_x;
    if constexpr (kExtra) {
      sum_ex = sum_ex * f + o.sum_ex * g;
      if (o.top > top || (o.top == top && o.arg < arg)) arg = o.arg;
    }
    top = new_top;
  }
};

// kCap: the logit is cap * tanh(x / cap).
template <bool kCap>
__device__ __forceinline__ float Capped(float x, float cap) {
  return kCap ? cap * tanhf(x / cap) : x;
}

template <typename T, bool kExtra, bool kCap>
__device__ Stats ScanRow(const T* row, int64_t V, float cap) {
  const RowParts<T> parts(row, V);
  Stats s = Stats::Empty();
  if (threadIdx.x < parts.head) {
    s.AddScalar<T, kExtra>(Capped<kCap>(ToFloat(row[threadIdx.x]), cap), threadIdx.x);
  }
  for (int64_t i = threadIdx.x; i < parts.vectors; i += kThreads) {
    const int64_t first = parts.head + i * kVec<T>;
    const auto stored = LoadVec<T, kVec<T>>(row + first);
    Vec<float, kVec<T>> x;
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) x.v[j] = Capped<kCap>(ToFloat(stored.v[j]), cap);
    float top = x.v[0];
    int at = 0;
#pragma unroll
    for (int j = 1; j < kVec<T>; ++j) {
      if (x.v[j] > top) {
        top = x.v[j];
        at = j;
      }
    }
    if (top > s.top) {
      s.Rescale<T, kExtra>(top);
      s.arg = first + at;
    } else if (top == s.top && first + at < s.arg) {
      s.arg = first + at;
    }
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) s.Add<T, kExtra>(x.v[j]);
  }
  const int64_t tail = parts.TailBegin() + threadIdx.x;
  if (tail < V) s.AddScalar<T, kExtra>(Capped<kCap>(ToFloat(row[tail]), cap), tail);
  return s;
}

__device__ __forceinline__ Stats ShuffleXor(const Stats& s, int d) {
  Stats o;
  o.top = __shfl_xor_sync(0xffffffffu, s.top, d);
  o.sum = __shfl_xor_sync(0xffffffffu, s.sum, d);
  o.sum_ex = __shfl_xor_sync(0xffffffffu, s.sum_ex, d);
  o.sum_x = __shfl_xor_sync(0xffffffffu, s.sum_x, d);
  o.arg = __shfl_xor_sync(0xffffffffu, static_cast<long long>(s.arg), d);
  return o;
}

// The merged statistics of the block, in every thread.
template <typename T, bool kExtra>
__device__ Stats BlockStats(Stats s, Stats* shared) {
  for (int d = kWarp / 2; d > 0; d >>= 1) s.Merge<T, kExtra>(ShuffleXor(s, d));
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = s;
  __syncthreads();
  s = shared[threadIdx.x % kWarps];
  for (int d = kWarps / 2; d > 0; d >>= 1) s.Merge<T, kExtra>(ShuffleXor(s, d));
  return s;
}

template <typename T>
__device__ void FillZero(T* row, int64_t V) {
  const RowParts<T> parts(row, V);
  if (threadIdx.x < parts.head) row[threadIdx.x] = FromFloat<T>(0.0f);
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4* body = reinterpret_cast<uint4*>(row + parts.head);
  for (int64_t i = threadIdx.x; i < parts.vectors; i += kThreads) body[i] = zero;
  const int64_t tail = parts.TailBegin() + threadIdx.x;
  if (tail < V) row[tail] = FromFloat<T>(0.0f);
}

// One gradient element: (p - target) * scale; through the cap, times its derivative.
template <bool kCap>
struct Gradient {
  // p = e^(x - top) / sum: next to 1, where p - 1 cancels, closer than e^(x - log sum).
  float top;
  float inverse_sum;
  float everywhere;  // label_smoothing / V
  float at_label;    // 1 - label_smoothing
  float scale;
  int64_t label;
  float d_entropy;         // 0: none
  float entropy_less_log;  // entropy - log sum of e^(x - top)
  float cap;

  template <typename T>
  __device__ __forceinline__ T At(float stored, int64_t index) const {
    const float x = Capped<kCap>(stored, cap);
    const float p = Exp<T>(x - top) * inverse_sum;
    float g = p - everywhere;
    if (index == label) g -= at_label;
    g *= scale;
    if (d_entropy != 0.0f && p > 0.0f) g -= d_entropy * p * (x - top + entropy_less_log);
    if constexpr (kCap) g *= 1.0f - (x / cap) * (x / cap);
    return FromFloat<T>(g);
  }
};

template <typename T, bool kCap>
__device__ void WriteGradient(T* row, int64_t V, const Gradient<kCap>& g) {
  const RowParts<T> parts(row, V);
  if (threadIdx.x < parts.head) {
    row[threadIdx.x] = g.template At<T>(ToFloat(row[threadIdx.x]), threadIdx.x);
  }
  for (int64_t i = threadIdx.x; i < parts.vectors; i += kThreads) {
    const int64_t first = parts.head + i * kVec<T>;
    auto x = LoadVec<T, kVec<T>>(row + first);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) x.v[j] = g.template At<T>(ToFloat(x.v[j]), first + j);
    StoreVec(row + first, x);
  }
  const int64_t tail = parts.TailBegin() + threadIdx.x;
  if (tail < V) row[tail] = g.template At<T>(ToFloat(row[tail]), tail);
}

// The gradient in half the width, over the logits it comes from. A step of the loop writes the first half of
// what it and earlier steps have read, so all must have read before any writes.
template <int kN, bool kCap>
__device__ void WriteNarrowGradient(float* row, int64_t V, const Gradient<kCap>& g, bool counts) {
  __nv_bfloat16* out = reinterpret_cast<__nv_bfloat16*>(row);
  for (int64_t begin = 0; begin < V; begin += kThreads * kN) {
    const int64_t i = begin + threadIdx.x * kN;
    Vec<float, kN> x;
    if (i < V) x = LoadVec<float, kN>(row + i);
    __syncthreads();
    if (i >= V) continue;
    Vec<__nv_bfloat16, kN> y;
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      y.v[j] = FromFloat<__nv_bfloat16>(counts ? g.template At<float>(x.v[j], i + j) : 0.0f);
    }
    StoreVec(out + i, y);
  }
}

// kExtra: entropy or correct is wanted.
template <typename T, bool kExtra, bool kCap>
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(CrossEntropyParams p) {
  __shared__ Stats shared[kWarps];
  const int64_t c = blockIdx.x;
  T* row = static_cast<T*>(p.logits) + c * p.V;
  const int64_t label = p.labels[c];
  const bool counts = label >= 0 && label < p.V;
  float top = 0, inverse_sum = 0, entropy_less_log = 0;
  if (counts || kExtra) {
    const Stats s = BlockStats<T, kExtra>(ScanRow<T, kExtra, kCap>(row, p.V, p.softcap), shared);
    const float log_sum = s.top + logf(s.sum);
    top = s.top;
    inverse_sum = 1.0f / s.sum;
    // The entropy is log sum - sum(p x), both with the maximum.
    if (kExtra) entropy_less_log = s.top - s.sum_ex / s.sum;
    if (threadIdx.x == 0) {
      const float x = counts ? Capped<kCap>(ToFloat(row[label]), p.softcap) : 0.0f;
      const float smoothing = static_cast<float>(p.label_smoothing);
      const float nll = log_sum - x;
      const float uniform = log_sum - s.sum_x / static_cast<float>(p.V);
      // Without smoothing an infinite logit elsewhere must not reach the loss.
      const float smoothed = (1.0f - smoothing) * nll + smoothing * uniform;
      if (counts) p.loss[c] = smoothing > 0.0f ? smoothed : nll;
      if (kExtra && p.entropy) p.entropy[c] = log_sum - s.sum_ex / s.sum;
      if (kExtra && p.correct) p.correct[c] = counts && s.arg == label;
    }
    __syncthreads();  // thread 0 has read the label's logit
  }
  if (!counts && threadIdx.x == 0) p.loss[c] = label < 0 ? 0.0f : NAN;
  if (!p.write_grad) return;
  const float smoothing = static_cast<float>(p.label_smoothing);
  const Gradient<kCap> g = {top, inverse_sum, smoothing / static_cast<float>(p.V), 1.0f - smoothing,
                            p.scale[c * p.scale_stride], label, kExtra && p.d_entropy ? p.d_entropy[c] : 0.0f,
                            entropy_less_log, p.softcap};
  if constexpr (sizeof(T) == 4) {
    if (p.narrow_grad && p.V % 4 == 0) return WriteNarrowGradient<4, kCap>(row, p.V, g, counts);
    if (p.narrow_grad) return WriteNarrowGradient<1, kCap>(row, p.V, g, counts);
  }
  if (!counts) return FillZero(row, p.V);
  WriteGradient<T, kCap>(row, p.V, g);
}

template <typename T, bool kCap>
void LaunchCapped(const CrossEntropyParams& p, CudaStream stream) {
  const unsigned blocks = static_cast<unsigned>(p.C);
  if (p.entropy || p.correct) {
    cross_entropy_kernel<T, true, kCap><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    cross_entropy_kernel<T, false, kCap><<<blocks, kThreads, 0, stream>>>(p);
  }
}

template <typename T>
void Launch(const CrossEntropyParams& p, CudaStream stream) {
  p.softcap > 0.0f ? LaunchCapped<T, true>(p, stream) : LaunchCapped<T, false>(p, stream);
}

}  // namespace

void CrossEntropyCuda(const CrossEntropyParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? Launch<float>(p, stream) : Launch<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
