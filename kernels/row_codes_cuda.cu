// 8-bit codes with a scale per row on the GPU. One product per element, so that the bits equal those of the CPU.
#include <cuda_fp8.h>

#include "kernels/cuda_common.cuh"
#include "kernels/row_codes_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kVec = 16;  // codes of a thread: one 16-byte load

template <bool kFp8>
__device__ __forceinline__ float Value(uint8_t code) {
  if constexpr (kFp8) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
  } else {
    return static_cast<float>(static_cast<int8_t>(code));
  }
}

// Bound by memory: a code is read and a value written. kN codes per thread, of one row.
template <typename T, bool kFp8, int kN>
__global__ void __launch_bounds__(kThreads) dequantize_row_codes_kernel(RowCodesParams p) {
  constexpr int kStore = kN == 1 ? 1 : 16 / sizeof(T);  // elements of one store
  const int64_t per_row = p.I / kN;
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (item >= p.O * per_row) return;
  const int64_t row = item / per_row, column = (item - row * per_row) * kN;
  const float scale = p.scale[row];
  const auto codes = LoadVec<uint8_t, kN>(static_cast<const uint8_t*>(p.codes) + row * p.I + column);
  T* out = static_cast<T*>(p.out) + row * p.out_stride + column;
#pragma unroll
  for (int first = 0; first < kN; first += kStore) {
    Vec<T, kStore> values;
#pragma unroll
    for (int j = 0; j < kStore; ++j) values.v[j] = FromFloat<T>(Value<kFp8>(codes.v[first + j]) * scale);
    StoreVec(out + first, values);
  }
}

template <typename T, bool kFp8>
void Launch(const RowCodesParams& p, CudaStream stream) {
  const bool vector = p.I % kVec == 0 && p.out_stride % kVec == 0 && Aligned16(p.codes) && Aligned16(p.out);
  const int64_t items = vector ? p.O * p.I / kVec : p.O * p.I;
  const unsigned blocks = static_cast<unsigned>((items + kThreads - 1) / kThreads);
  if (vector) {
    dequantize_row_codes_kernel<T, kFp8, kVec><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    dequantize_row_codes_kernel<T, kFp8, 1><<<blocks, kThreads, 0, stream>>>(p);
  }
}

}  // namespace

void DequantizeRowCodesCuda(const RowCodesParams& p, Dtype dtype, bool fp8, CudaStream stream) {
  if (dtype == Dtype::kFloat32) {
    fp8 ? Launch<float, true>(p, stream) : Launch<float, false>(p, stream);
  } else {
    fp8 ? Launch<__nv_bfloat16, true>(p, stream) : Launch<__nv_bfloat16, false>(p, stream);
  }
}

}  // namespace finetuned::kernels
