// Norms of heads: a warp for each short vector, a block for each long one, which is read again in every pass.
#include "kernels/cuda_common.cuh"
#include "kernels/head_norm_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kLongestOfWarp = 1024;

// Sum over the kRow threads of one vector.
template <int kRow>
__device__ __forceinline__ float RowSum(float x, float* shared) {
  if constexpr (kRow == kWarp) {
    return WarpSum(x);
  } else {
    return BlockSum<kRow>(x, shared);
  }
}

// One vector as its threads see it.
template <typename T, typename W, int kRow>
struct Row {
  const T* x;
  const W* w;
  const T* dy;
  T* out;
  int lane;
  bool there;

  __device__ explicit Row(const HeadNormParams& p) {
    const int64_t i = int64_t{blockIdx.x} * (kThreads / kRow) + threadIdx.x / kRow;
    there = i < p.T * p.H;
    lane = threadIdx.x % kRow;
    const int64_t t = i / p.H, h = i % p.H;
    x = static_cast<const T*>(p.x) + t * p.x_stride + h * p.E;
    w = static_cast<const W*>(p.w) + h * p.w_stride;
    dy = static_cast<const T*>(p.dy) + (p.dy ? t * p.dy_stride + h * p.E : 0);
    out = static_cast<T*>(p.out) + t * p.out_stride + h * p.E;
  }
};

struct Stats {
  float mean, rstd;
};

template <typename T, int kRow>
__device__ Stats StatsOf(const T* x, int lane, const HeadNormParams& p, float* shared) {
  float sum = 0.0f, squares = 0.0f;
  if (p.center) {
    for (int64_t e = lane; e < p.E; e += kRow) sum += ToFloat(x[e]);
    sum = RowSum<kRow>(sum, shared);
  }
  const float mean = sum / static_cast<float>(p.E);
  for (int64_t e = lane; e < p.E; e += kRow) {
    const float d = ToFloat(x[e]) - mean;
    squares += d * d;
  }
  squares = RowSum<kRow>(squares, shared);
  return {mean, 1.0f / sqrtf(squares / static_cast<float>(p.E) + static_cast<float>(p.eps))};
}

template <typename T, typename W, int kRow>
__global__ void __launch_bounds__(kThreads) head_norm_forward_kernel(HeadNormParams p) {
  __shared__ float shared[kWarp];
  const Row<T, W, kRow> r(p);
  if (!r.there) return;  // a whole warp or a whole block
  const Stats s = StatsOf<T, kRow>(r.x, r.lane, p, shared);
  for (int64_t e = r.lane; e < p.E; e += kRow) {
    float n = (ToFloat(r.x[e]) - s.mean) * s.rstd;
    if constexpr (sizeof(W) == sizeof(T)) n = ToFloat(FromFloat<T>(n));
    r.out[e] = FromFloat<T>(ToFloat(r.w[e]) * n);
  }
}

template <typename T, typename W, int kRow>
__global__ void __launch_bounds__(kThreads) head_norm_backward_kernel(HeadNormParams p) {
  __shared__ float shared[kWarp];
  const Row<T, W, kRow> r(p);
  if (!r.there) return;
  const Stats s = StatsOf<T, kRow>(r.x, r.lane, p, shared);
  float sum = 0.0f, dot = 0.0f;
  for (int64_t e = r.lane; e < p.E; e += kRow) {
    const float g = ToFloat(r.dy[e]) * ToFloat(r.w[e]);
    sum += g;
    dot += g * (ToFloat(r.x[e]) - s.mean) * s.rstd;
  }
  dot = RowSum<kRow>(dot, shared) / static_cast<float>(p.E);
  sum = p.center ? RowSum<kRow>(sum, shared) / static_cast<float>(p.E) : 0.0f;
  for (int64_t e = r.lane; e < p.E; e += kRow) {
    const float n = (ToFloat(r.x[e]) - s.mean) * s.rstd;
    const float g = s.rstd * (ToFloat(r.dy[e]) * ToFloat(r.w[e]) - sum - n * dot);
    r.out[e] = FromFloat<T>(p.accumulate ? ToFloat(r.out[e]) + g : g);
  }
}

template <typename T, typename W, int kRow>
void Launch(const HeadNormParams& p, bool backward, CudaStream stream) {
  constexpr int64_t kRows = kThreads / kRow;
  const unsigned blocks = static_cast<unsigned>((p.T * p.H + kRows - 1) / kRows);
  if (backward) {
    head_norm_backward_kernel<T, W, kRow><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    head_norm_forward_kernel<T, W, kRow><<<blocks, kThreads, 0, stream>>>(p);
  }
}

template <typename T, typename W>
void LaunchRow(const HeadNormParams& p, bool backward, CudaStream stream) {
  p.E <= kLongestOfWarp ? Launch<T, W, kWarp>(p, backward, stream) : Launch<T, W, kThreads>(p, backward, stream);
}

void LaunchTyped(const HeadNormParams& p, Dtype dtype, bool backward, CudaStream stream) {
  if (dtype == Dtype::kFloat32) return LaunchRow<float, float>(p, backward, stream);
  if (p.w_is_float32) return LaunchRow<__nv_bfloat16, float>(p, backward, stream);
  LaunchRow<__nv_bfloat16, __nv_bfloat16>(p, backward, stream);
}

}  // namespace

void HeadNormForwardCuda(const HeadNormParams& p, Dtype dtype, CudaStream stream) {
  LaunchTyped(p, dtype, /*backward=*/false, stream);
}

void HeadNormBackwardCuda(const HeadNormParams& p, Dtype dtype, CudaStream stream) {
  LaunchTyped(p, dtype, /*backward=*/true, stream);
}

}  // namespace finetuned::kernels
