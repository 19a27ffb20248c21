// RMS norm, forward and backward. A row belongs to a warp (short rows) or a block and stays in
// registers between the reduction and the output; see ChooseRmsNormTile.
#include "kernels/cuda_common.cuh"
#include "kernels/rms_norm_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;

template <typename T>
constexpr int kVec = 16 / sizeof(T);

// Sum over the kRow threads of one row.
template <int kRow>
__device__ __forceinline__ float RowSum(float x, float* shared) {
  if constexpr (kRow == kWarp) {
    return WarpSum(x);
  } else {
    return BlockSum<kRow>(x, shared);
  }
}

// Llama rounds the normalized value to T before the weight (W = T); with a float32 weight beside
// bfloat16 there is one rounding at the end.
template <typename T, typename W>
__device__ __forceinline__ T Normalized(float x, float rstd, W w) {
  if constexpr (sizeof(W) == sizeof(T)) {
    return FromFloat<T>(ToFloat(w) * ToFloat(FromFloat<T>(x * rstd)));
  } else {
    return FromFloat<T>(ToFloat(w) * (x * rstd));
  }
}

template <typename T, typename W, int kRow, int kVectors>
__global__ void __launch_bounds__(kThreads) rms_norm_forward_kernel(RmsNormForwardParams p) {
  __shared__ float shared[kWarp];
  const int lane = threadIdx.x % kRow;
  const int64_t t = int64_t{blockIdx.x} * (kThreads / kRow) + threadIdx.x / kRow;
  if (t >= p.T) return;  // a whole warp or a whole block
  const T* x = static_cast<const T*>(p.x) + t * p.D;
  const T* delta = p.delta ? static_cast<const T*>(p.delta) + t * p.D : nullptr;
  Vec<T, kVec<T>> row[kVectors];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t d = int64_t{i * kRow + lane} * kVec<T>;
    if (d >= p.D) break;
    row[i] = LoadVec<T, kVec<T>>(x + d);
    if (delta) {
      const auto add = LoadVec<T, kVec<T>>(delta + d);
#pragma unroll
      for (int j = 0; j < kVec<T>; ++j) {
        row[i].v[j] = FromFloat<T>(ToFloat(row[i].v[j]) + ToFloat(add.v[j]));
      }
      StoreVec(static_cast<T*>(p.sum) + t * p.D + d, row[i]);
    }
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) sum += ToFloat(row[i].v[j]) * ToFloat(row[i].v[j]);
  }
  sum = RowSum<kRow>(sum, shared);
  const float rstd = 1.0f / sqrtf(sum / p.D + static_cast<float>(p.eps));
  if (lane == 0) static_cast<float*>(p.rstd)[t] = rstd;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t d = int64_t{i * kRow + lane} * kVec<T>;
    if (d >= p.D) break;
    const auto w = LoadVec<W, kVec<T>>(static_cast<const W*>(p.w) + d);
    Vec<T, kVec<T>> y;
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      y.v[j] = Normalized<T, W>(ToFloat(row[i].v[j]), rstd, w.v[j]);
    }
    StoreVec(static_cast<T*>(p.y) + t * p.y_stride + d, y);
  }
}

// Any D and alignment: one block a row, the row is read twice.
template <typename T, typename W>
__global__ void __launch_bounds__(kThreads) rms_norm_forward_scalar_kernel(RmsNormForwardParams p) {
  __shared__ float shared[kWarp];
  const int64_t t = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + t * p.D;
  const T* delta = p.delta ? static_cast<const T*>(p.delta) + t * p.D : nullptr;
  float sum = 0;
  if (delta) {
    T* added = static_cast<T*>(p.sum) + t * p.D;
    for (int64_t d = threadIdx.x; d < p.D; d += kThreads) {
      added[d] = FromFloat<T>(ToFloat(x[d]) + ToFloat(delta[d]));
    }
    x = added;  // each thread reads back what it wrote itself
  }
  for (int64_t d = threadIdx.x; d < p.D; d += kThreads) sum += ToFloat(x[d]) * ToFloat(x[d]);
  sum = BlockSum<kThreads>(sum, shared);
  const float rstd = 1.0f / sqrtf(sum / p.D + static_cast<float>(p.eps));
  if (threadIdx.x == 0) static_cast<float*>(p.rstd)[t] = rstd;
  for (int64_t d = threadIdx.x; d < p.D; d += kThreads) {
    static_cast<T*>(p.y)[t * p.y_stride + d] =
        Normalized<T, W>(ToFloat(x[d]), rstd, static_cast<const W*>(p.w)[d]);
  }
}

// dx = rstd * (dy * w - x * c) with c = rstd^2 * mean(dy * w * x).
template <typename T, typename W, int kRow, int kVectors>
__global__ void __launch_bounds__(kThreads) rms_norm_backward_kernel(RmsNormBackwardParams p) {
  __shared__ float shared[kWarp];
  const int lane = threadIdx.x % kRow;
  const int64_t t = int64_t{blockIdx.x} * (kThreads / kRow) + threadIdx.x / kRow;
  if (t >= p.T) return;
  Vec<T, kVec<T>> x[kVectors], dy[kVectors], dx[kVectors];
  float dot = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t d = int64_t{i * kRow + lane} * kVec<T>;
    if (d >= p.D) break;
    x[i] = LoadVec<T, kVec<T>>(static_cast<const T*>(p.x) + t * p.D + d);
    dy[i] = LoadVec<T, kVec<T>>(static_cast<const T*>(p.dy) + t * p.dy_stride + d);
    if (p.accumulate) dx[i] = LoadVec<T, kVec<T>>(static_cast<T*>(p.dx) + t * p.dx_stride + d);
    const auto w = LoadVec<W, kVec<T>>(static_cast<const W*>(p.w) + d);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      dot += ToFloat(dy[i].v[j]) * ToFloat(w.v[j]) * ToFloat(x[i].v[j]);
    }
  }
  dot = RowSum<kRow>(dot, shared);
  const float rstd = static_cast<const float*>(p.rstd)[t];
  const float c = dot * rstd * rstd / p.D;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t d = int64_t{i * kRow + lane} * kVec<T>;
    if (d >= p.D) break;
    const auto w = LoadVec<W, kVec<T>>(static_cast<const W*>(p.w) + d);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const float g = rstd * (ToFloat(dy[i].v[j]) * ToFloat(w.v[j]) - ToFloat(x[i].v[j]) * c);
      dx[i].v[j] = FromFloat<T>(p.accumulate ? ToFloat(dx[i].v[j]) + g : g);
    }
    StoreVec(static_cast<T*>(p.dx) + t * p.dx_stride + d, dx[i]);
  }
}

template <typename T, typename W>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_scalar_kernel(RmsNormBackwardParams p) {
  __shared__ float shared[kWarp];
  const int64_t t = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + t * p.D;
  const T* dy = static_cast<const T*>(p.dy) + t * p.dy_stride;
  const W* w = static_cast<const W*>(p.w);
  T* dx = static_cast<T*>(p.dx) + t * p.dx_stride;
  float dot = 0;
  for (int64_t d = threadIdx.x; d < p.D; d += kThreads) {
    dot += ToFloat(dy[d]) * ToFloat(w[d]) * ToFloat(x[d]);
  }
  dot = BlockSum<kThreads>(dot, shared);
  const float rstd = static_cast<const float*>(p.rstd)[t];
  const float c = dot * rstd * rstd / p.D;
  for (int64_t d = threadIdx.x; d < p.D; d += kThreads) {
    const float g = rstd * (ToFloat(dy[d]) * ToFloat(w[d]) - ToFloat(x[d]) * c);
    dx[d] = FromFloat<T>(p.accumulate ? ToFloat(dx[d]) + g : g);
  }
}

unsigned Blocks(int64_t T, int row_threads) {
  const int rows = kThreads / row_threads;
  return static_cast<unsigned>((T + rows - 1) / rows);
}

template <typename T, typename W, int kRow, int kVectors>
void Launch(const RmsNormForwardParams& p, CudaStream stream) {
  rms_norm_forward_kernel<T, W, kRow, kVectors><<<Blocks(p.T, kRow), kThreads, 0, stream>>>(p);
}

template <typename T, typename W, int kRow, int kVectors>
void Launch(const RmsNormBackwardParams& p, CudaStream stream) {
  rms_norm_backward_kernel<T, W, kRow, kVectors><<<Blocks(p.T, kRow), kThreads, 0, stream>>>(p);
}

template <typename T, typename W>
void LaunchScalar(const RmsNormForwardParams& p, CudaStream stream) {
  rms_norm_forward_scalar_kernel<T, W><<<Blocks(p.T, kThreads), kThreads, 0, stream>>>(p);
}

template <typename T, typename W>
void LaunchScalar(const RmsNormBackwardParams& p, CudaStream stream) {
  rms_norm_backward_scalar_kernel<T, W><<<Blocks(p.T, kThreads), kThreads, 0, stream>>>(p);
}

template <typename T, typename W, int kRow, typename Params>
void LaunchRow(const Params& p, int vectors, CudaStream stream) {
  switch (vectors) {
    case 1:
      return Launch<T, W, kRow, 1>(p, stream);
    case 2:
      return Launch<T, W, kRow, 2>(p, stream);
    default:
      return Launch<T, W, kRow, 4>(p, stream);
  }
}

template <typename T, typename W, typename Params>
void LaunchTile(const Params& p, bool aligned, CudaStream stream) {
  const RmsNormTile tile = ChooseRmsNormTile(p.D, sizeof(T), aligned);
  if (tile.vectors == 0) return LaunchScalar<T, W>(p, stream);
  if (tile.threads == kWarp) return LaunchRow<T, W, kWarp>(p, tile.vectors, stream);
  return LaunchRow<T, W, kThreads>(p, tile.vectors, stream);
}

template <typename Params>
void LaunchTyped(const Params& p, Dtype dtype, bool aligned, CudaStream stream) {
  if (dtype == Dtype::kFloat32) return LaunchTile<float, float>(p, aligned, stream);
  if (p.w_is_float32) return LaunchTile<__nv_bfloat16, float>(p, aligned, stream);
  return LaunchTile<__nv_bfloat16, __nv_bfloat16>(p, aligned, stream);
}

}  // namespace

void RmsNormForwardCuda(const RmsNormForwardParams& p, Dtype dtype, CudaStream stream) {
  const bool aligned = Aligned16(p.x) && Aligned16(p.w) && Aligned16(p.y) && Aligned16(p.delta) &&
                       Aligned16(p.sum) && p.y_stride % 8 == 0;
  LaunchTyped(p, dtype, aligned, stream);
}

void RmsNormBackwardCuda(const RmsNormBackwardParams& p, Dtype dtype, CudaStream stream) {
  const bool aligned = Aligned16(p.x) && Aligned16(p.w) && Aligned16(p.dy) && Aligned16(p.dx) &&
                       p.dy_stride % 8 == 0 && p.dx_stride % 8 == 0;
  LaunchTyped(p, dtype, aligned, stream);
}

}  // namespace finetuned::kernels
