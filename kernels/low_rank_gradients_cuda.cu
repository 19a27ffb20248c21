// Fused gradients of adapters on tensor cores. A block takes up to 512 columns of one part, 64 a warp, and a share of
// the rows, 16 at a time: dy passes once through shared memory and is multiplied there with B, and transposed with u.
// dB of a warp's columns stays in registers over all its rows; du of 16 rows is summed over the block's warps. A second
// kernel adds up blocks. Bound by reading dy. At most 76 KiB of shared memory.
#include <mma.h>

#include "kernels/cuda_async.cuh"
#include "kernels/cuda_common.cuh"
#include "kernels/low_rank_gradients_params.h"

namespace finetuned::kernels {
namespace {

namespace wmma = nvcuda::wmma;
using bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTile = 16;     // rows at a time; sides of a fragment
constexpr int kChunk = 64;    // columns of a warp
constexpr int kSteps = kChunk / kTile;
constexpr int kStages = 3;
constexpr int kDyRow = kChunk + 8;  // elements of a row in shared memory: no bank conflicts

template <int kRank>
struct Shared {
  static constexpr int kURow = kRank + 8;
  static constexpr int kDy = kTile * kDyRow, kU = kTile * kURow;  // elements of a stage: of a warp, of the block
  bf16 dy[kStages][kWarps][kDy];
  bf16 u[kStages][kU];
  float sums[kWarps][kTile * kRank];
};

struct Place {
  int part, group;        // group inside the part
  int first_chunk, chunks;
};

__device__ Place FindPlace(const LowRankGradientsParams& p) {
  int group = static_cast<int>(blockIdx.x), i = 0;
  while (i + 1 < p.parts && group >= p.first_group[i + 1]) ++i;
  group -= p.first_group[i];
  const int all = p.part_width[i] / kChunk;
  const int groups = (i + 1 < p.parts ? p.first_group[i + 1] : p.groups) - p.first_group[i];
  const int first = group * all / groups;
  return {i, group, first, (group + 1) * all / groups - first};
}

template <int kRank>
__global__ void __launch_bounds__(kThreads, kRank == 16 ? 2 : 1) low_rank_gradients_kernel(LowRankGradientsParams p) {
  constexpr int kRankTiles = kRank / kTile;
  extern __shared__ __align__(128) unsigned char memory[];
  Shared<kRank>& s = *reinterpret_cast<Shared<kRank>*>(memory);
  const Place place = FindPlace(p);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const bool active = warp < place.chunks;
  const int column = (place.first_chunk + warp) * kChunk;  // inside the part
  const bf16* dy = static_cast<const bf16*>(p.dy) + p.first_column[place.part] + column;
  const bf16* u = static_cast<const bf16*>(p.u) + place.part * kRank;
  const int64_t tiles = (p.T + kTile - 1) / kTile;
  const int64_t first = tiles * blockIdx.y / p.splits, last = tiles * (blockIdx.y + 1) / p.splits;

  wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, bf16, wmma::row_major> b[kSteps][kRankTiles];
  wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> db[kSteps][kRankTiles];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int n = 0; n < kRankTiles; ++n) {
      wmma::fill_fragment(db[k][n], 0.0f);
      if (!active) continue;
      const bf16* from = static_cast<const bf16*>(p.b[place.part]) + (column + k * kTile) * kRank + n * kTile;
      wmma::load_matrix_sync(b[k][n], from, kRank);
    }
  }

  const auto load = [&](int64_t tile) {
    const int stage = static_cast<int>((tile - first) % kStages);
    if (tile < last) {
      const int64_t row0 = tile * kTile;
      if (active) {
#pragma unroll
        for (int i = lane; i < kTile * kChunk / 8; i += kWarp) {
          const int row = i / (kChunk / 8), c = i % (kChunk / 8) * 8;
          const bool there = row0 + row < p.T;
          CopyAsync16(&s.dy[stage][warp][row * kDyRow + c], dy + (there ? row0 + row : 0) * p.dy_stride + c, there);
        }
      }
      if (threadIdx.x < kTile * kRank / 8) {
        const int row = threadIdx.x / (kRank / 8), c = threadIdx.x % (kRank / 8) * 8;
        const bool there = row0 + row < p.T;
        CopyAsync16(&s.u[stage][row * Shared<kRank>::kURow + c], u + (there ? row0 + row : 0) * p.u_stride + c, there);
      }
    }
    CommitAsync();
  };

  for (int i = 0; i < kStages - 1; ++i) load(first + i);
  for (int64_t tile = first; tile < last; ++tile) {
    WaitAsync<kStages - 2>();
    __syncthreads();  // the tile is there, and nobody reads the stage and the sums before it
    load(tile + kStages - 1);
    const int stage = static_cast<int>((tile - first) % kStages);
    if (active) {
      wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> du[kRankTiles];
      wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, bf16, wmma::row_major> of_u[kRankTiles];
#pragma unroll
      for (int n = 0; n < kRankTiles; ++n) {
        wmma::fill_fragment(du[n], 0.0f);
        wmma::load_matrix_sync(of_u[n], &s.u[stage][n * kTile], Shared<kRank>::kURow);
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const bf16* block = &s.dy[stage][warp][k * kTile];
        wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, bf16, wmma::row_major> rows;
        wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, bf16, wmma::col_major> columns;  // dy^T
        wmma::load_matrix_sync(rows, block, kDyRow);
        wmma::load_matrix_sync(columns, block, kDyRow);
#pragma unroll
        for (int n = 0; n < kRankTiles; ++n) {
          wmma::mma_sync(du[n], rows, b[k][n], du[n]);
          wmma::mma_sync(db[k][n], columns, of_u[n], db[k][n]);
        }
      }
#pragma unroll
      for (int n = 0; n < kRankTiles; ++n) {
        wmma::store_matrix_sync(&s.sums[warp][n * kTile], du[n], kRank, wmma::mem_row_major);
      }
    }
    __syncthreads();
    float* out = p.du_partial + (blockIdx.x * p.T + tile * kTile) * kRank;
    for (int i = threadIdx.x; i < kTile * kRank; i += kThreads) {
      float sum = 0;
      for (int w = 0; w < place.chunks; ++w) sum += s.sums[w][i];
      if (tile * kTile + i / kRank < p.T) out[i] = sum;
    }
  }
  if (!active) return;
  float* out = p.db_partial + (static_cast<int64_t>(blockIdx.y) * p.width + p.first_row[place.part] + column) * kRank;
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int n = 0; n < kRankTiles; ++n) {
      wmma::store_matrix_sync(out + k * kTile * kRank + n * kTile, db[k][n], kRank, wmma::mem_row_major);
    }
  }
}

__device__ __forceinline__ void Add(float4& sum, const float* from) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  sum.x += x.x;
  sum.y += x.y;
  sum.z += x.z;
  sum.w += x.w;
}

// Four neighbours of du or of dB a thread: first all of du, row by row, then dB of all parts.
template <int kRank>
__global__ void __launch_bounds__(kThreads) low_rank_gradients_sum_kernel(LowRankGradientsParams p) {
  constexpr int kVectors = kRank / 4;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, of_du = p.T * p.parts * kVectors;
  float4 sum = {0, 0, 0, 0};
  if (i < of_du) {
    const int64_t t = i / (p.parts * kVectors);
    const int part = static_cast<int>(i / kVectors % p.parts), r = static_cast<int>(i % kVectors) * 4;
    const int end = part + 1 < p.parts ? p.first_group[part + 1] : p.groups;
    for (int g = p.first_group[part]; g < end; ++g) Add(sum, p.du_partial + (g * p.T + t) * kRank + r);
    bf16* out = static_cast<bf16*>(p.du) + t * p.du_stride + part * kRank + r;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) out[j] = FromFloat<bf16>(p.scale * values[j]);
    return;
  }
  const int64_t row = (i - of_du) / kVectors;
  const int r = static_cast<int>((i - of_du) % kVectors) * 4;
  if (row >= p.width) return;
  int part = 0;
  while (part + 1 < p.parts && row >= p.first_row[part + 1]) ++part;
  for (int s = 0; s < p.splits; ++s) Add(sum, p.db_partial + (int64_t{s} * p.width + row) * kRank + r);
  float4* out = reinterpret_cast<float4*>(p.db[part] + (row - p.first_row[part]) * kRank + r);
  float4 x = *out;
  x.x += p.scale * sum.x;
  x.y += p.scale * sum.y;
  x.z += p.scale * sum.z;
  x.w += p.scale * sum.w;
  *out = x;
}

template <int kRank>
void Launch(const LowRankGradientsParams& p, CudaStream stream) {
  constexpr int kBytes = sizeof(Shared<kRank>);
  cudaFuncSetAttribute(low_rank_gradients_kernel<kRank>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const dim3 grid(static_cast<unsigned>(p.groups), static_cast<unsigned>(p.splits));
  low_rank_gradients_kernel<kRank><<<grid, kThreads, kBytes, stream>>>(p);
}

template <int kRank>
void LaunchSum(const LowRankGradientsParams& p, CudaStream stream) {
  const int64_t vectors = (p.T * p.parts + p.width) * (kRank / 4);
  const unsigned blocks = static_cast<unsigned>((vectors + kThreads - 1) / kThreads);
  low_rank_gradients_sum_kernel<kRank><<<blocks, kThreads, 0, stream>>>(p);
}

}  // namespace

void LowRankGradientsCuda(const LowRankGradientsParams& p, CudaStream stream) {
  p.rank == 16 ? Launch<16>(p, stream) : Launch<32>(p, stream);
  SumLowRankGradientsCuda(p, stream);
}

void SumLowRankGradientsCuda(const LowRankGradientsParams& p, CudaStream stream) {
  p.rank == 16 ? LaunchSum<16>(p, stream) : LaunchSum<32>(p, stream);
}

}  // namespace finetuned::kernels
