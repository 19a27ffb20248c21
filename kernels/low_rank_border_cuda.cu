// The border of a weight: a thread per element, B first, then A.
#include "kernels/cuda_common.cuh"
#include "kernels/low_rank_border_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ T BorderElement(const LowRankBorderParams& p, int32_t row, int32_t column) {
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (i >= p.parts) break;
    const int32_t r = row - p.first_row[i], c = column - p.first_column[i];
    if (r >= 0 && r < p.rows[i] && c >= 0 && c < p.rank[i]) {
      return FromFloat<T>(p.scale * ToFloat(static_cast<const T*>(p.b[i])[r * p.rank[i] + c]));
    }
  }
  return FromFloat<T>(0.0f);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) low_rank_border_kernel(LowRankBorderParams p) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t columns = static_cast<uint32_t>(p.G), inputs = static_cast<uint32_t>(p.I);
  const uint32_t of_b = static_cast<uint32_t>(p.O) * columns;
  T* out = static_cast<T*>(p.extended);
  if (i < of_b) {
    const uint32_t row = i / columns, column = i % columns;
    out[row * p.row_stride + p.I + column] =
        BorderElement<T>(p, static_cast<int32_t>(row), static_cast<int32_t>(column));
  } else if (p.a != nullptr && i - of_b < columns * inputs) {
    const uint32_t row = (i - of_b) / inputs, column = (i - of_b) % inputs;
    out[(p.O + row) * p.row_stride + column] = static_cast<const T*>(p.a)[i - of_b];
  }
}

}  // namespace

void LowRankBorderCuda(const LowRankBorderParams& p, Dtype dtype, CudaStream stream) {
  const int64_t n = p.O * p.G + (p.a ? p.G * p.I : 0);
  const unsigned blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  if (dtype == Dtype::kFloat32) {
    low_rank_border_kernel<float><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    low_rank_border_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(p);
  }
}

}  // namespace finetuned::kernels
