// Choice of tokens on the GPU: a block per row. Thresholds of top-k and top-p are found digit by digit (8 bits of
// the ordered key at a time) with integer histograms, so results do not depend on the order of threads.
#include <cfloat>

#include "kernels/cuda_common.cuh"
#include "kernels/sample_tokens_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kBins = 256;
constexpr int kCopies = 8;  // of the histogram, each for some of the warps: most values share a few leading digits

// Order of floats as order of integers.
__device__ __forceinline__ uint32_t Key(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Row {
  const float* x;
  const uint32_t* seen;
  SamplingRow params;
  int64_t V;
  bool penalized;

  __device__ __forceinline__ float Y(int64_t v) const {
    return Adjusted(x[v], penalized && Seen(seen, v), params.penalty, params.inverse_temperature);
  }
};

__device__ float BlockMax(float x, float* shared) {
  x = WarpMax(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = WarpMax(shared[threadIdx.x % kWarp]);  // 32 warps
  __syncthreads();
  return x;
}

// Sum of what falls into the same bin one after another, so that few additions go to shared memory.
struct Run {
  unsigned long long* histogram;
  int bin = -1;
  unsigned long long sum = 0;

  __device__ __forceinline__ void Add(int to, unsigned long long share) {
    if (to != bin) Flush();
    bin = to;
    sum += share;
  }
  __device__ __forceinline__ void Flush() {
    if (sum > 0) atomicAdd(histogram + bin, sum);
    sum = 0;
  }
};

// The bin, from the highest down, at which the running sum of all copies reaches `wanted`; what lies above it is
// taken off `wanted`.
__device__ int FindBin(unsigned long long* histogram, unsigned long long* wanted) {
  __shared__ int bin;
  __shared__ unsigned long long rest;
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    for (int c = 1; c < kCopies; ++c) histogram[i] += histogram[c * kBins + i];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned long long above = 0;
    int b = kBins - 1;
    for (; b > 0; --b) {
      if (above + histogram[b] >= *wanted) break;
      above += histogram[b];
    }
    bin = b;
    rest = *wanted - above;
  }
  __syncthreads();
  *wanted = rest;
  return bin;
}

// Smallest key that belongs to the top: counting (kShares false) the `wanted` largest of the keys at or above
// `lowest`, or the fewest of them whose shares reach `wanted`.
template <bool kShares>
__device__ uint32_t SelectKey(const Row& row, uint32_t lowest, float top,
                              unsigned long long wanted, unsigned long long* histogram) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kCopies * kBins; i += kThreads) histogram[i] = 0;
    __syncthreads();
    Run run{histogram + threadIdx.x / kWarp % kCopies * kBins};
    for (int64_t v = threadIdx.x; v < row.V; v += kThreads) {
      const float y = row.Y(v);
      const uint32_t key = Key(y);
      if (key < lowest || (shift < 24 && key >> (shift + 8) != prefix)) continue;
      const unsigned long long share = kShares ? FixedShare(expf(y - top)) : 1;
      run.Add(static_cast<int>(key >> shift & 255u), share);
    }
    run.Flush();
    prefix = prefix << 8 | static_cast<uint32_t>(FindBin(histogram, &wanted));
  }
  return prefix;
}

__device__ unsigned long long BlockShares(const Row& row, uint32_t lowest, float top) {
  __shared__ unsigned long long whole;
  if (threadIdx.x == 0) whole = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (int64_t v = threadIdx.x; v < row.V; v += kThreads) {
    const float y = row.Y(v);
    if (Key(y) >= lowest) mine += FixedShare(expf(y - top));
  }
  atomicAdd(&whole, mine);
  __syncthreads();
  return whole;
}

// Smallest value that top_k, top_p and min_p keep.
__device__ float Threshold(const Row& row, float top, unsigned long long* histogram) {
  uint32_t lowest = 0;
  if (row.params.top_k > 0 && row.params.top_k < row.V) {
    lowest = SelectKey<false>(row, 0, top, static_cast<unsigned long long>(row.params.top_k), histogram);
  }
  if (row.params.top_p < 1.0f) {
    const unsigned long long whole = BlockShares(row, lowest, top);
    const unsigned long long wanted = static_cast<unsigned long long>(
        static_cast<double>(row.params.top_p) * static_cast<double>(whole));
    lowest = SelectKey<true>(row, lowest, top, wanted > 0 ? wanted : 1, histogram);
  }
  const float value = lowest == 0 ? -FLT_MAX
                                  : __uint_as_float(lowest & 0x80000000u ? lowest & 0x7fffffffu : ~lowest);
  return row.params.log_min_p < 0.0f ? fmaxf(value, top + row.params.log_min_p) : value;
}

struct Best {
  float score;
  int index;
  __device__ __forceinline__ void Take(float s, int i) {
    if (s > score || (s == score && i < index)) {
      score = s;
      index = i;
    }
  }
};

__device__ int BlockBest(Best best) {
  __shared__ Best shared[kThreads / kWarp];
  for (int d = kWarp / 2; d > 0; d >>= 1) {
    best.Take(__shfl_xor_sync(0xffffffffu, best.score, d), __shfl_xor_sync(0xffffffffu, best.index, d));
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = best;
  __syncthreads();
  best = shared[0];
  for (int w = 1; w < kThreads / kWarp; ++w) best.Take(shared[w].score, shared[w].index);
  return best.index;
}

__device__ int Choose(const Row& row, float top, float threshold, int position) {
  Best best = {-FLT_MAX, 0x7fffffff};
  const bool greedy = row.params.inverse_temperature == 0.0f;
  const uint64_t stream = uint64_t{row.params.sample} << 32 |
                          static_cast<uint32_t>(position + 1 - row.params.prompt_tokens);
  const float lowest = fmaxf(threshold, top - kHopeless);
  // A thread takes four neighbours, which share a draw.
  for (int64_t first = 4 * int64_t{threadIdx.x}; first < row.V; first += 4 * kThreads) {
    PhiloxWords words = {};
    bool drawn = false;
    for (int j = 0; j < 4 && first + j < row.V; ++j) {
      const float y = row.Y(first + j);
      if (greedy) {
        best.Take(y, static_cast<int>(first + j));
        continue;
      }
      if (y < lowest) continue;
      if (!drawn) words = Philox(static_cast<uint64_t>(first / 4), stream, row.params.seed);
      drawn = true;
      best.Take(y - logf(-log1pf(-NoiseShare(words.v[j]))), static_cast<int>(first + j));
    }
  }
  const int index = BlockBest(best);
  return index < row.V ? index : 0;  // nothing compares with NaN
}

__global__ void __launch_bounds__(kThreads) sample_tokens_kernel(SampleTokensParams p) {
  __shared__ unsigned long long histogram[kCopies * kBins];
  __shared__ float shared[kThreads / kWarp];
  const int64_t b = blockIdx.x, slot = p.slots[b];
  Row row = {p.logits + b * p.V, p.seen + slot * p.W, p.rows[slot], p.V, false};
  row.penalized = row.params.penalty != 1.0f;
  const float scale = row.params.inverse_temperature > 0.0f ? row.params.inverse_temperature : 1.0f;

  float x_top = -FLT_MAX, y_top = -FLT_MAX;
  for (int64_t v = threadIdx.x; v < p.V; v += kThreads) {
    x_top = fmaxf(x_top, row.x[v] * scale);
    if (row.penalized) y_top = fmaxf(y_top, row.Y(v));
  }
  x_top = BlockMax(x_top, shared);
  y_top = row.penalized ? BlockMax(y_top, shared) : x_top;
  float sum = 0.0f;
  for (int64_t v = threadIdx.x; v < p.V; v += kThreads) sum += expf(row.x[v] * scale - x_top);
  sum = BlockSum<kThreads>(sum, shared);

  const bool greedy = row.params.inverse_temperature == 0.0f;
  const float threshold = greedy ? -FLT_MAX : Threshold(row, y_top, histogram);
  const int token = Choose(row, y_top, threshold, p.positions[slot]);
  if (threadIdx.x != 0) return;
  p.tokens[slot] = p.out[b] = token;
  p.out[p.B + b] = __float_as_int(row.x[token] * scale - x_top - logf(sum));
  p.seen[slot * p.W + token / 32] |= 1u << (token % 32);
  p.positions[slot] += 1;
}

}  // namespace

void SampleTokensCuda(const SampleTokensParams& p, CudaStream stream) {
  sample_tokens_kernel<<<static_cast<unsigned>(p.B), kThreads, 0, stream>>>(p);
}

}  // namespace finetuned::kernels
