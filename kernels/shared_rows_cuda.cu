// Shared rows: a thread copies or sums 16 bytes of a row (one element where rows do not start at multiples of 16 bytes).
// Both are bound by the memory they read.
#include "kernels/cuda_common.cuh"
#include "kernels/shared_rows_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) copy_shared_rows_kernel(CopySharedRowsParams p) {
  const int64_t units = p.C / kVec, i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.G * units) return;
  const int64_t g = i / units, c = i % units * kVec;
  StoreVec(static_cast<T*>(p.out) + g * p.out_stride + c,
           LoadVec<T, kVec>(static_cast<const T*>(p.x) + p.rows[g] * p.x_stride + c));
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads) sum_shared_rows_kernel(SumSharedRowsParams p) {
  const int64_t units = p.C / kVec, i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.T * units) return;
  const int64_t t = i / units, c = i % units * kVec;
  float sum[kVec] = {};
  for (int32_t k = p.offsets[t]; k < p.offsets[t + 1]; ++k) {
    const auto copy = LoadVec<T, kVec>(static_cast<const T*>(p.d) + p.copies[k] * p.d_stride + c);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum[j] += ToFloat(copy.v[j]);
  }
  Vec<T, kVec> out;
#pragma unroll
  for (int j = 0; j < kVec; ++j) out.v[j] = FromFloat<T>(sum[j]);
  StoreVec(static_cast<T*>(p.out) + t * p.out_stride + c, out);
}

unsigned Blocks(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

// Rows of two matrices start at multiples of 16 bytes and hold whole ones.
template <typename T>
bool InVectors(const void* a, int64_t a_stride, const void* b, int64_t b_stride, int64_t columns) {
  constexpr int kVec = 16 / sizeof(T);
  return a_stride % kVec == 0 && b_stride % kVec == 0 && columns % kVec == 0 && Aligned16(a) && Aligned16(b);
}

template <typename T>
void Copy(const CopySharedRowsParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  if (InVectors<T>(p.x, p.x_stride, p.out, p.out_stride, p.C)) {
    copy_shared_rows_kernel<T, kVec><<<Blocks(p.G * (p.C / kVec)), kThreads, 0, stream>>>(p);
  } else {
    copy_shared_rows_kernel<T, 1><<<Blocks(p.G * p.C), kThreads, 0, stream>>>(p);
  }
}

template <typename T>
void Sum(const SumSharedRowsParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  if (InVectors<T>(p.d, p.d_stride, p.out, p.out_stride, p.C)) {
    sum_shared_rows_kernel<T, kVec><<<Blocks(p.T * (p.C / kVec)), kThreads, 0, stream>>>(p);
  } else {
    sum_shared_rows_kernel<T, 1><<<Blocks(p.T * p.C), kThreads, 0, stream>>>(p);
  }
}

}  // namespace

void CopySharedRowsCuda(const CopySharedRowsParams& p, CudaStream stream) {
  p.dtype == Dtype::kFloat32 ? Copy<float>(p, stream) : Copy<__nv_bfloat16>(p, stream);
}

void SumSharedRowsCuda(const SumSharedRowsParams& p, CudaStream stream) {
  p.dtype == Dtype::kFloat32 ? Sum<float>(p, stream) : Sum<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
