// SwiGLU, forward and backward: one 16-byte vector per thread, rows split into equal pieces.
#include "kernels/cuda_common.cuh"
#include "kernels/swiglu_math.cuh"
#include "kernels/swiglu_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kMaxThreads = 256;

// blockIdx.x = t * pieces + piece; a piece is blockDim.x vectors of the row.
template <typename T, int kVec, bool kGelu>
__global__ void __launch_bounds__(kMaxThreads)
    swiglu_forward_kernel(SwigluForwardParams p, int pieces) {
  const int64_t t = blockIdx.x / pieces;
  const int64_t f = (int64_t{blockIdx.x % pieces} * blockDim.x + threadIdx.x) * kVec;
  if (f >= p.F) return;
  const T* gate = static_cast<const T*>(p.gate_up) + t * p.gate_up_stride + f;
  const auto g = LoadVec<T, kVec>(gate);
  const auto u = LoadVec<T, kVec>(gate + p.F);
  Vec<T, kVec> h;
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    h.v[j] = FromFloat<T>(Activate<T, kGelu>(ToFloat(g.v[j])).value * ToFloat(u.v[j]));
  }
  StoreVec(static_cast<T*>(p.h) + t * p.h_stride + f, h);
}

template <typename T, int kVec, bool kGelu>
__global__ void __launch_bounds__(kMaxThreads)
    swiglu_backward_kernel(SwigluBackwardParams p, int pieces) {
  const int64_t t = blockIdx.x / pieces;
  const int64_t f = (int64_t{blockIdx.x % pieces} * blockDim.x + threadIdx.x) * kVec;
  if (f >= p.F) return;
  const T* gate = static_cast<const T*>(p.gate_up) + t * p.gate_up_stride + f;
  const auto g = LoadVec<T, kVec>(gate);
  const auto u = LoadVec<T, kVec>(gate + p.F);
  const auto d = LoadVec<T, kVec>(static_cast<const T*>(p.dh) + t * p.F + f);
  Vec<T, kVec> dgate, dup, h;
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    const float x = ToFloat(g.v[j]), up = ToFloat(u.v[j]), dh = ToFloat(d.v[j]);
    const Activated a = Activate<T, kGelu>(x);
    dgate.v[j] = FromFloat<T>(dh * up * a.slope);
    dup.v[j] = FromFloat<T>(dh * a.value);
    h.v[j] = FromFloat<T>(a.value * up);
  }
  T* out = static_cast<T*>(p.d_gate_up) + t * p.d_gate_up_stride + f;
  StoreVec(out, dgate);
  StoreVec(out + p.F, dup);
  if (p.h) StoreVec(static_cast<T*>(p.h) + t * p.F + f, h);
}

template <typename T, int kVec, typename Params, typename Kernel>
void Launch(Kernel kernel, const Params& p, CudaStream stream) {
  const int64_t vectors = (p.F + kVec - 1) / kVec;
  const int pieces = static_cast<int>((vectors + kMaxThreads - 1) / kMaxThreads);
  const int threads = static_cast<int>((vectors + pieces - 1) / pieces + 31) / 32 * 32;
  kernel<<<static_cast<unsigned>(p.T * pieces), threads, 0, stream>>>(p, pieces);
}

template <typename T, bool kGelu>
void LaunchForward(const SwigluForwardParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  if (p.F % kVec == 0 && p.gate_up_stride % kVec == 0 && p.h_stride % kVec == 0 &&
      Aligned16(p.gate_up) && Aligned16(p.h)) {
    return Launch<T, kVec>(swiglu_forward_kernel<T, kVec, kGelu>, p, stream);
  }
  Launch<T, 1>(swiglu_forward_kernel<T, 1, kGelu>, p, stream);
}

template <typename T, bool kGelu>
void LaunchBackward(const SwigluBackwardParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  if (p.F % kVec == 0 && p.gate_up_stride % kVec == 0 && p.d_gate_up_stride % kVec == 0 &&
      Aligned16(p.gate_up) && Aligned16(p.dh) && Aligned16(p.d_gate_up) && Aligned16(p.h)) {
    return Launch<T, kVec>(swiglu_backward_kernel<T, kVec, kGelu>, p, stream);
  }
  Launch<T, 1>(swiglu_backward_kernel<T, 1, kGelu>, p, stream);
}

}  // namespace

void SwigluForwardCuda(const SwigluForwardParams& p, Dtype dtype, CudaStream stream) {
  if (p.gelu) {
    return dtype == Dtype::kFloat32 ? LaunchForward<float, true>(p, stream) : LaunchForward<__nv_bfloat16, true>(p, stream);
  }
  dtype == Dtype::kFloat32 ? LaunchForward<float, false>(p, stream) : LaunchForward<__nv_bfloat16, false>(p, stream);
}

void SwigluBackwardCuda(const SwigluBackwardParams& p, Dtype dtype, CudaStream stream) {
  if (p.gelu) {
    return dtype == Dtype::kFloat32 ? LaunchBackward<float, true>(p, stream) : LaunchBackward<__nv_bfloat16, true>(p, stream);
  }
  dtype == Dtype::kFloat32 ? LaunchBackward<float, false>(p, stream) : LaunchBackward<__nv_bfloat16, false>(p, stream);
}

}  // namespace finetuned::kernels
