// Dropout: a thread draws one Philox block and serves the four elements it covers.
#include "kernels/cuda_common.cuh"
#include "kernels/dropout_params.h"
#include "kernels/philox.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 4;  // elements per Philox block

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads) dropout_kernel(DropoutParams p) {
  const int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t i = group * kGroup;
  if (i >= p.n) return;
  const T* x = static_cast<const T*>(p.x) + i;
  T* y = static_cast<T*>(p.y) + i;
  const PhiloxWords words = Philox(p.first_group + static_cast<uint64_t>(group), p.offset, p.seed);
  if (kAligned && i + kGroup <= p.n) {
    auto v = LoadVec<T, kGroup>(x);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      v.v[j] = FromFloat<T>(words.v[j] >= p.threshold ? ToFloat(v.v[j]) * p.scale : 0.0f);
    }
    StoreVec(y, v);
    return;
  }
#pragma unroll
  for (int j = 0; j < kGroup; ++j) {
    if (i + j >= p.n) break;
    y[j] = FromFloat<T>(words.v[j] >= p.threshold ? ToFloat(x[j]) * p.scale : 0.0f);
  }
}

template <typename T>
void Launch(const DropoutParams& p, CudaStream stream) {
  const int64_t groups = (p.n + kGroup - 1) / kGroup;
  const unsigned blocks = static_cast<unsigned>((groups + kThreads - 1) / kThreads);
  if (Aligned16(p.x) && Aligned16(p.y)) {
    dropout_kernel<T, true><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    dropout_kernel<T, false><<<blocks, kThreads, 0, stream>>>(p);
  }
}

}  // namespace

void DropoutCuda(const DropoutParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? Launch<float>(p, stream) : Launch<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
