// Fused backward of the MLP's gate and gradients of its adapters. A block takes up to 512 columns of the gate and the same
// of up, 256 at a time, and a share of the rows, 16 at a time: gate, up and dh pass once through shared memory, their gradients replace gate and
// up there and in global memory, and tensor cores multiply them with B, and transposed with u, 32 columns a warp. dB
// stays in registers over all rows; du of 16 rows is summed over the block's warps. The sums over blocks are those of
// low_rank_gradients_cuda.cu. Bound by reading three matrices and writing two. At most 98 KiB of shared memory.
#include <mma.h>

#include "kernels/cuda_async.cuh"
#include "kernels/cuda_common.cuh"
#include "kernels/gate_low_rank_params.h"
#include "kernels/swiglu_math.cuh"

namespace finetuned::kernels {
namespace {

namespace wmma = nvcuda::wmma;
using bf16 = __nv_bfloat16;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTile = 16;                   // rows at a time; sides of a fragment
constexpr int kColumns = kGateColumns / kWarps;  // of a warp
constexpr int kSteps = kColumns / kTile;
constexpr int kRow = kGateColumns + 8;        // elements of a row in shared memory: no bank conflicts
constexpr int kVec = 8;                     // elements of 16 bytes
static_assert(kGateColumns == kWarp * kVec, "a warp takes a row at a time");

template <int kRank>
struct Shared {
  static constexpr int kStages = kRank == 16 ? 3 : 2;
  static constexpr int kURow = 2 * kRank + 8;  // of u in bfloat16, of du in float32
  bf16 gate[kStages][kTile * kRow];
  bf16 up[kStages][kTile * kRow];
  bf16 dh[kStages][kTile * kRow];
  bf16 u[kStages][kTile * kURow];
  float sums[kWarps][kTile * kURow];
};

using Rows = wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, bf16, wmma::row_major>;
using Columns = wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, bf16, wmma::col_major>;  // the transpose
using Right = wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, bf16, wmma::row_major>;
using Sum = wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float>;

// Of a warp's columns of gate and of up.
template <int kRank>
struct Adapters {
  static constexpr int kRankTiles = kRank / kTile;
  Right b[2][kSteps][kRankTiles];
  Sum db[2][kSteps][kRankTiles];

  __device__ __forceinline__ void Load(const LowRankGradientsParams& p, int column) {
#pragma unroll
    for (int i = 0; i < 2 * kSteps * kRankTiles; ++i) {
      const int part = i / (kSteps * kRankTiles), k = i / kRankTiles % kSteps, n = i % kRankTiles;
      wmma::fill_fragment(db[part][k][n], 0.0f);
      wmma::load_matrix_sync(b[part][k][n], static_cast<const bf16*>(p.b[part]) + (column + k * kTile) * kRank + n * kTile, kRank);
    }
  }

  // gradient: the warp's columns of 16 rows of one part; u and sums: that part's columns.
  template <int kPart>
  __device__ __forceinline__ void Multiply(const bf16* gradient, const bf16* u, float* sums) {
    Sum du[kRankTiles];
    Right of_u[kRankTiles];
#pragma unroll
    for (int n = 0; n < kRankTiles; ++n) {
      wmma::fill_fragment(du[n], 0.0f);
      wmma::load_matrix_sync(of_u[n], u + n * kTile, Shared<kRank>::kURow);
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      Rows rows;
      Columns columns;
      wmma::load_matrix_sync(rows, gradient + k * kTile, kRow);
      wmma::load_matrix_sync(columns, gradient + k * kTile, kRow);
#pragma unroll
      for (int n = 0; n < kRankTiles; ++n) {
        wmma::mma_sync(du[n], rows, b[kPart][k][n], du[n]);
        wmma::mma_sync(db[kPart][k][n], columns, of_u[n], db[kPart][k][n]);
      }
    }
#pragma unroll
    for (int n = 0; n < kRankTiles; ++n) {
      wmma::store_matrix_sync(sums + n * kTile, du[n], Shared<kRank>::kURow, wmma::mem_row_major);
    }
  }

  __device__ __forceinline__ void Store(const LowRankGradientsParams& p, int column) const {
#pragma unroll
    for (int i = 0; i < 2 * kSteps * kRankTiles; ++i) {
      const int part = i / (kSteps * kRankTiles), k = i / kRankTiles % kSteps, n = i % kRankTiles;
      const int64_t row = static_cast<int64_t>(blockIdx.y) * p.width + p.first_row[part] + column + k * kTile;
      wmma::store_matrix_sync(p.db_partial + row * kRank + n * kTile, db[part][k][n], kRank, wmma::mem_row_major);
    }
  }
};

// Eight elements: gradients take the place of gate and up, as in swiglu_backward_kernel.
template <bool kGelu>
__device__ __forceinline__ void Differentiate(const bf16* of_dh, Vec<bf16, kVec>* gate, Vec<bf16, kVec>* up) {
  const auto d = LoadVec<bf16, kVec>(of_dh);
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    const float dh = ToFloat(d.v[j]), of_up = ToFloat(up->v[j]);
    const Activated a = Activate<bf16, kGelu>(ToFloat(gate->v[j]));
    gate->v[j] = FromFloat<bf16>(dh * of_up * a.slope);
    up->v[j] = FromFloat<bf16>(dh * a.value);
  }
}

// du of a tile from those of the warps, both parts; `add`: to that of the columns before, which this thread has written.
template <int kRank>
__device__ __forceinline__ void StoreDu(const Shared<kRank>& s, const LowRankGradientsParams& p, int64_t row0, bool add) {
  for (int i = threadIdx.x; i < 2 * kTile * kRank; i += kThreads) {
    const int part = i / (kTile * kRank), row = i / kRank % kTile, r = i % kRank;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += s.sums[w][row * Shared<kRank>::kURow + part * kRank + r];
    if (row0 + row >= p.T) continue;
    float* out = p.du_partial + ((p.first_group[part] + blockIdx.x) * p.T + row0 + row) * kRank + r;
    if (add) {
      atomicAdd(out, sum);  // the only addition there: without waiting for the value
    } else {
      *out = sum;
    }
  }
}

// Gradients overwrite gate and up in global memory: each element is read, into a stage, by the thread that writes it
// once that stage has arrived; stages ahead are other rows.
template <int kRank, bool kGelu>
__device__ __forceinline__ void TakeColumns(Shared<kRank>& s, const GateLowRankParams& params, int first_column, bool add_du) {
  constexpr int kStages = Shared<kRank>::kStages, kURow = Shared<kRank>::kURow;
  const LowRankGradientsParams& p = params.low_rank;
  const int warp = threadIdx.x / kWarp, c = threadIdx.x % kWarp * kVec;
  const int of_warp = warp * kColumns;
  bf16* gate_up = static_cast<bf16*>(params.gate_up) + first_column + c;
  const bf16* dh = static_cast<const bf16*>(params.dh) + first_column + c;
  const int64_t tiles = (p.T + kTile - 1) / kTile;
  const int64_t first = tiles * blockIdx.y / p.splits, last = tiles * (blockIdx.y + 1) / p.splits;
  Adapters<kRank> adapters;
  adapters.Load(p, first_column + of_warp);

  const auto load = [&](int64_t tile) {
    if (tile < last) {
      const int stage = static_cast<int>((tile - first) % kStages);
      const int64_t row0 = tile * kTile;
#pragma unroll
      for (int row = warp; row < kTile; row += kWarps) {
        const bool there = row0 + row < p.T;
        const int64_t t = there ? row0 + row : 0;
        const int at = row * kRow + c;
        CopyAsync16(&s.gate[stage][at], gate_up + t * p.dy_stride, there);
        CopyAsync16(&s.up[stage][at], gate_up + t * p.dy_stride + params.F, there);
        CopyAsync16(&s.dh[stage][at], dh + t * params.F, there);
      }
      if (threadIdx.x < kTile * 2 * kRank / kVec) {
        const int row = threadIdx.x / (2 * kRank / kVec), r = threadIdx.x % (2 * kRank / kVec) * kVec;
        const bool there = row0 + row < p.T;
        CopyAsync16(&s.u[stage][row * kURow + r], static_cast<const bf16*>(p.u) + (there ? row0 + row : 0) * p.u_stride + r, there);
      }
    }
    CommitAsync();
  };

  for (int i = 0; i < kStages - 1; ++i) load(first + i);
  for (int64_t tile = first; tile < last; ++tile) {
    WaitAsync<kStages - 2>();  // what this thread has loaded is there, which is what it now changes
    load(tile + kStages - 1);  // over the stage before, which nobody reads since the tile's last barrier
    const int stage = static_cast<int>((tile - first) % kStages);
    const int64_t row0 = tile * kTile;
#pragma unroll
    for (int row = warp; row < kTile; row += kWarps) {
      const int at = row * kRow + c;
      auto gate = LoadVec<bf16, kVec>(&s.gate[stage][at]), up = LoadVec<bf16, kVec>(&s.up[stage][at]);
      Differentiate<kGelu>(&s.dh[stage][at], &gate, &up);
      StoreVec(&s.gate[stage][at], gate);
      StoreVec(&s.up[stage][at], up);
      if (row0 + row >= p.T) continue;
      StoreVec(gate_up + (row0 + row) * p.dy_stride, gate);
      StoreVec(gate_up + (row0 + row) * p.dy_stride + params.F, up);
    }
    __syncthreads();  // gradients and u are there, and nobody reads the sums before
    adapters.template Multiply<0>(&s.gate[stage][of_warp], &s.u[stage][0], &s.sums[warp][0]);
    adapters.template Multiply<1>(&s.up[stage][of_warp], &s.u[stage][kRank], &s.sums[warp][kRank]);
    __syncthreads();
    StoreDu(s, p, row0, add_du);
  }
  adapters.Store(p, first_column + of_warp);
}

template <int kRank, bool kGelu>
__global__ void __launch_bounds__(kThreads, kRank == 16 ? 2 : 1) gate_low_rank_kernel(GateLowRankParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared<kRank>& s = *reinterpret_cast<Shared<kRank>*>(memory);
  const int first = static_cast<int>(blockIdx.x) * kGateGroup;
  const int last = min(first + kGateGroup, static_cast<int>(params.F));
#pragma unroll 1
  for (int column = first; column < last; column += kGateColumns) {
    TakeColumns<kRank, kGelu>(s, params, column, /*add_du=*/column > first);
  }
}

template <int kRank, bool kGelu>
void Launch(const GateLowRankParams& p, CudaStream stream) {
  constexpr int kBytes = sizeof(Shared<kRank>);
  static_assert(kBytes <= 99 * 1024, "of sm_86");
  cudaFuncSetAttribute(gate_low_rank_kernel<kRank, kGelu>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const dim3 grid(static_cast<unsigned>(p.low_rank.groups / 2), static_cast<unsigned>(p.low_rank.splits));
  gate_low_rank_kernel<kRank, kGelu><<<grid, kThreads, kBytes, stream>>>(p);
}

}  // namespace

void GateLowRankCuda(const GateLowRankParams& p, CudaStream stream) {
  if (p.low_rank.rank == 16) {
    p.gelu ? Launch<16, true>(p, stream) : Launch<16, false>(p, stream);
  } else {
    p.gelu ? Launch<32, true>(p, stream) : Launch<32, false>(p, stream);
  }
  SumLowRankGradientsCuda(p.low_rank, stream);
}

}  // namespace finetuned::kernels
