// Gradient norm: partial sums of squares with a fixed order, then one block adds them in double.
#include "kernels/cuda_common.cuh"
#include "kernels/finite_params.h"
#include "kernels/multi_tensor.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
using Batch = TensorBatch<NormTensor, 1280>;
static_assert(sizeof(Batch) < 32000);  // of 32,764 bytes of kernel parameters

__global__ void __launch_bounds__(kThreads)
    square_sum_kernel(const __grid_constant__ Batch batch, float* partials) {
  __shared__ float shared[kWarp];
  const int index = EntryOfBlock(batch, blockIdx.x);
  const NormTensor t = batch.entry[index];
  const int64_t begin =
      int64_t{static_cast<int>(blockIdx.x) - batch.first_block[index]} * kNormElements;
  const int64_t end = begin + kNormElements < t.n ? begin + kNormElements : t.n;
  float sum = 0;
  if (reinterpret_cast<uintptr_t>(t.g) % 16 == 0 && end - begin == kNormElements) {
#pragma unroll
    for (int u = 0; u < kNormElements / kThreads / 4; ++u) {
      const auto g = LoadVec<float, 4>(t.g + begin + (u * kThreads + threadIdx.x) * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum += g.v[j] * g.v[j];
    }
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += t.g[i] * t.g[i];
  }
  sum = BlockSum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    norm_kernel(const float* partials, int64_t count, NormOutputs out) {
  __shared__ double shared[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  shared[threadIdx.x] = sum;
  for (int d = kThreads / 2; d > 0; d >>= 1) {
    __syncthreads();
    if (threadIdx.x < d) shared[threadIdx.x] += shared[threadIdx.x + d];
  }
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(shared[0]));
  const float limit = static_cast<float>(out.max_norm);
  *out.norm = norm;
  *out.scale = limit > 0.0f ? fminf(1.0f, limit / (norm + 1e-6f)) : 1.0f;
  *out.skip = isfinite(norm) ? 0.0f : 1.0f;
}

}  // namespace

void GradNormCuda(const std::vector<NormTensor>& tensors, float* partials, const NormOutputs& out,
                  CudaStream stream) {
  Batch batch;
  int64_t count = 0;
  for (size_t next = 0; next < tensors.size();) {
    next = FillBatch(tensors, next, kNormElements, batch);
    if (batch.count == 0) continue;
    const int blocks = batch.first_block[batch.count];
    square_sum_kernel<<<blocks, kThreads, 0, stream>>>(batch, partials + count);
    count += blocks;
  }
  norm_kernel<<<1, kThreads, 0, stream>>>(partials, count, out);
}

}  // namespace finetuned::kernels
