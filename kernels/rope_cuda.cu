// Rotary embedding. A block serves a few tokens: it puts their cosines and sines into shared memory
// once, then rotates all heads.
#include <algorithm>

#include "kernels/cuda_common.cuh"
#include "kernels/rope_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxTokens = 8;  // per block; shared memory: 8 tokens * R * 4 bytes

// shared: cosine [tokens, R/2], then sine [tokens, R/2], rounded to T. kStep 2: pairs are neighbours (kVec is 1 then).
template <typename T, int kVec, int kStep>
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeParams p, int tokens) {
  extern __shared__ float shared[];
  const int half = static_cast<int>(p.R / 2), apart = kStep == 2 ? 1 : half;
  const int64_t first = int64_t{blockIdx.x} * tokens;
  const int count = static_cast<int>(p.T - first < tokens ? p.T - first : tokens);
  float* cosine = shared;
  float* sine = shared + tokens * half;
  for (int i = threadIdx.x; i < count * half; i += kThreads) {
    const float angle = static_cast<float>(p.position[first + i / half]) * p.inv_freq[i % half];
    float s, c;
    sincosf(angle, &s, &c);
    cosine[i] = ToFloat(FromFloat<T>(c * p.magnitude));
    sine[i] = p.sign * ToFloat(FromFloat<T>(s * p.magnitude));
  }
  __syncthreads();
  const int vectors = half / kVec;
  const int per_token = static_cast<int>(p.H) * vectors;
  for (int i = threadIdx.x; i < count * per_token; i += kThreads) {
    const int t = i / per_token;
    const int head = i % per_token / vectors;
    const int e = i % vectors * kVec;  // per_token is a multiple of vectors
    T* low = static_cast<T*>(p.x) + (first + t) * p.row_stride + int64_t{head} * p.E + e * kStep;
    Vec<T, kVec> a = LoadVec<T, kVec>(low);
    Vec<T, kVec> b = LoadVec<T, kVec>(low + apart);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float c = cosine[t * half + e + j], s = sine[t * half + e + j];
      const float x = ToFloat(a.v[j]), y = ToFloat(b.v[j]);
      a.v[j] = FromFloat<T>(x * c - y * s);
      b.v[j] = FromFloat<T>(y * c + x * s);
    }
    StoreVec(low, a);
    StoreVec(low + apart, b);
  }
}

template <typename T, int kVec, int kStep = 1>
void Launch(const RopeParams& p, CudaStream stream) {
  const int64_t items = p.H * p.R / 2 / kVec;  // per token
  const int tokens =
      static_cast<int>(std::clamp<int64_t>(2 * kThreads / items, int64_t{1}, kMaxTokens));
  const unsigned blocks = static_cast<unsigned>((p.T + tokens - 1) / tokens);
  const size_t shared = sizeof(float) * tokens * p.R;
  rope_kernel<T, kVec, kStep><<<blocks, kThreads, shared, stream>>>(p, tokens);
}

template <typename T>
void LaunchTyped(const RopeParams& p, CudaStream stream) {
  constexpr int kVec = 16 / sizeof(T);
  if (p.interleaved) return Launch<T, 1, 2>(p, stream);
  if (Aligned16(p.x) && p.R / 2 % kVec == 0 && p.E % kVec == 0 && p.row_stride % kVec == 0) {
    return Launch<T, kVec>(p, stream);
  }
  Launch<T, 1>(p, stream);
}

}  // namespace

void RopeCuda(const RopeParams& p, Dtype dtype, CudaStream stream) {
  dtype == Dtype::kFloat32 ? LaunchTyped<float>(p, stream) : LaunchTyped<__nv_bfloat16>(p, stream);
}

}  // namespace finetuned::kernels
