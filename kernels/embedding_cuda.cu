// Embedding lookup: a warp copies a row.
#include "kernels/cuda_common.cuh"
#include "kernels/embedding_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;

// Unit: what a lane copies at once; row_units of them make a row.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) embedding_kernel(EmbeddingParams p, int64_t row_units) {
  const int64_t t = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (t >= p.T) return;
  const int64_t id = p.ids[t];
  Unit* out = static_cast<Unit*>(p.out) + t * row_units;
  const bool valid = id >= 0 && id < p.V;
  const Unit* row = static_cast<const Unit*>(p.table) + (valid ? id : 0) * row_units;
  Unit nan;
  memset(&nan, 0xff, sizeof(nan));
  for (int64_t i = threadIdx.x % kWarp; i < row_units; i += kWarp) out[i] = valid ? row[i] : nan;
}

template <typename Unit>
void Launch(const EmbeddingParams& p, CudaStream stream) {
  const unsigned blocks = static_cast<unsigned>((p.T * kWarp + kThreads - 1) / kThreads);
  embedding_kernel<Unit>
      <<<blocks, kThreads, 0, stream>>>(p, p.row_bytes / static_cast<int64_t>(sizeof(Unit)));
}

}  // namespace

void EmbeddingCuda(const EmbeddingParams& p, CudaStream stream) {
  if (p.row_bytes % 16 == 0 && Aligned16(p.table) && Aligned16(p.out)) {
    return Launch<uint4>(p, stream);
  }
  Launch<uint16_t>(p, stream);
}

}  // namespace finetuned::kernels
