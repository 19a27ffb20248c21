// Element types of kernel parameters and the launch stream; no torch and no CUDA headers.
#pragma once

#include <cstdint>

// Functions that the CPU and the GPU share.
#ifdef __CUDACC__
#define FT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FT_HOST_DEVICE inline
#endif

struct CUstream_st;

namespace finetuned::kernels {

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

using CudaStream = CUstream_st*;  // the same type as cudaStream_t

inline int64_t DtypeBytes(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

}  // namespace finetuned::kernels
