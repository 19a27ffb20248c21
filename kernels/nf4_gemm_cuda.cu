// NF4 product on tensor cores. A block makes 128 outputs of up to 64 rows: weights are the left operand of
// mma.m16n8k16, expanded from 4 bits in registers by a table of byte -> two values; x comes through shared memory.
//
// The k index inside a stage of 128 is permuted, the same way on both sides, so that every access is wide: lane q of
// a quad owns inputs 32 q .. 32 q + 31, that is 16 bytes of a weight row; step j takes 4 of them. Rows of x lie in
// shared memory in pieces of 16 bytes, piece (q, j / 2) at 64 (j / 2) + 16 q, rows 320 bytes apart: no bank conflicts.
// Legend: see nf4_gemm.h.
#include "kernels/cuda_async.cuh"
#include "kernels/cuda_common.cuh"
#include "kernels/nf4_gemm_params.h"

namespace finetuned::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 128;       // outputs of a block, 16 of each warp
constexpr int kStageK = 128;     // inputs of a stage
constexpr int kCodeBytes = kStageK / 2;
constexpr int kXBytes = 320;     // of a row of x in shared memory
constexpr int kTableCopies = 16;  // of the byte table: one for each pair of banks
constexpr int kTableBytes = 256 * kTableCopies * 8;

// Sizes of a block's shared memory: at most 90 KiB.
template <int kTiles>
struct Layout {
  static constexpr int kX = kTiles * 8 * kXBytes;
  static constexpr int kCodes = kRows * kCodeBytes;
  static constexpr int kMaxima = kRows * 2 * 4;
  static constexpr int kStage = kX + kCodes + kMaxima;
  static constexpr int kStages = kTiles == 8 ? 2 : kTiles == 4 ? 3 : 4;
  static constexpr int kNested = 1024;
  static constexpr int kBytes = kTableBytes + kNested + kStages * kStage;
};

__device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a block stands: its part, rows and inputs.
struct Place {
  const Nf4GemmPart& part;
  int row;          // first row inside the part
  int first, last;  // stages [first, last)
};

__device__ Place FindPlace(const Nf4GemmParams& p) {
  int tile = blockIdx.x, i = 0;
  for (; i + 1 < p.num_parts; ++i) {
    const int tiles = static_cast<int>((p.parts[i].rows + kRows - 1) / kRows);
    if (tile < tiles) break;
    tile -= tiles;
  }
  const int64_t stages = (p.I + kStageK - 1) / kStageK;
  return {p.parts[i], tile * kRows, static_cast<int>(stages * blockIdx.y / p.splits),
          static_cast<int>(stages * (blockIdx.y + 1) / p.splits)};
}

template <int kTiles>
class Stage {
 public:
  __device__ Stage(char* memory) : memory_(memory) {}
  __device__ char* x() const { return memory_; }
  __device__ char* codes() const { return memory_ + Layout<kTiles>::kX; }
  __device__ float* maxima() const {
    return reinterpret_cast<float*>(memory_ + Layout<kTiles>::kX + Layout<kTiles>::kCodes);
  }

  // Starts the copies of stage `s`; what lies outside reads as 0.
  __device__ void Load(const Nf4GemmParams& p, const Place& at, int s, int first_m) const {
    const int k0 = s * kStageK;
    for (int i = threadIdx.x; i < kRows * 4; i += kThreads) {
      const int row = i / 4, piece = i % 4;
      const bool valid = at.row + row < at.part.rows && k0 + piece * 32 < p.I;
      const uint8_t* from = at.part.codes;
      if (valid) from += (int64_t{at.row + row} * p.I + k0) / 2 + piece * 16;
      CopyAsync16(codes() + row * kCodeBytes + piece * 16, from, valid);
    }
    for (int i = threadIdx.x; i < kTiles * 8 * 16; i += kThreads) {
      const int m = i / 16, piece = i % 16;  // of 8 inputs: lane piece / 4, pair of steps piece % 4
      const bool valid = first_m + m < p.M && k0 + piece * 8 < p.I;
      const __nv_bfloat16* from = static_cast<const __nv_bfloat16*>(p.x);
      if (valid) from += int64_t{first_m + m} * p.x_stride + k0 + piece * 8;
      CopyAsync16(x() + m * kXBytes + (piece % 4) * 64 + (piece / 4) * 16, from, valid);
    }
  }

  // Largest magnitude of the block of 64 inputs that is this thread's: row threadIdx / 2, half threadIdx % 2.
  __device__ static float LoadMaximum(const Nf4GemmParams& p, const Place& at, int s,
                                      const float* nested_map) {
    const int row = at.row + threadIdx.x / 2, block = 2 * s + threadIdx.x % 2;
    const int64_t blocks = p.I / 64;
    return row < at.part.rows && block < blocks ? Nf4BlockMax(at.part, nested_map, row * blocks + block) : 0.0f;
  }
  __device__ void StoreMaximum(float m) const { maxima()[threadIdx.x] = m; }

  // acc += 16 rows of W times x.
  __device__ void Multiply(const char* table, float (&acc)[kTiles][4]) const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, quad = lane / 4, q = lane % 4;
    const char* mine = table + lane % kTableCopies * 8;
    uint4 codes4[2];
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp * 16 + h * 8 + quad;
      codes4[h] = *reinterpret_cast<const uint4*>(codes() + row * kCodeBytes + q * 16);
      scale[h] = maxima()[row * 2 + q / 2];
    }
#pragma unroll
    for (int jj = 0; jj < 4; ++jj) {
      uint32_t w[2][4];  // [step][register]
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t word = (&codes4[h].x)[jj];
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) w[byte / 2][byte % 2 * 2 + h] = Expand(mine, word, byte, scale[h]);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const uint4 b = *reinterpret_cast<const uint4*>(x() + (n * 8 + quad) * kXBytes + jj * 64 + q * 16);
        Mma(acc[n], w[0], b.x, b.y);
        Mma(acc[n], w[1], b.z, b.w);
      }
    }
  }

 private:
  // The two weights of a byte, as Nf4Dequantize rounds them.
  __device__ static uint32_t Expand(const char* mine, uint32_t word, int byte, float scale) {
    constexpr int kShift = 7;  // a row of the table: 16 copies of 8 bytes
    const uint32_t moved = byte == 0 ? word << kShift : word >> (8 * byte - kShift);
    const float2 v = *reinterpret_cast<const float2*>(mine + (moved & 255u << kShift));
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v.x * scale, v.y * scale);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }

  char* memory_;
};

template <int kTiles>
__device__ void StorePartial(const Nf4GemmParams& p, const Place& at, int first_m,
                             const float (&acc)[kTiles][4]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, quad = lane / 4, q = lane % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = at.row + warp * 16 + c / 2 * 8 + quad;
      const int m = first_m + n * 8 + q * 2 + c % 2;
      if (row >= at.part.rows || m >= p.M) continue;
      p.partial[(blockIdx.y * p.M + m) * p.O + at.part.first_row + row] = acc[n][c];
    }
  }
}

// Grid: (tiles of 128 rows of all parts, splits, tiles of M).
template <int kTiles>
__global__ void __launch_bounds__(kThreads, 2) nf4_gemm_kernel(const __grid_constant__ Nf4GemmParams p) {
  using L = Layout<kTiles>;
  extern __shared__ __align__(16) char shared[];
  float* nested_map = reinterpret_cast<float*>(shared + kTableBytes);
  char* stages = shared + kTableBytes + L::kNested;
  for (int i = threadIdx.x; i < 256 * kTableCopies; i += kThreads) {
    const int byte = i / kTableCopies;
    reinterpret_cast<float2*>(shared)[i] = make_float2(p.code_map[byte >> 4], p.code_map[byte & 15]);
  }
  if (p.nested_map) {
    for (int i = threadIdx.x; i < 256; i += kThreads) nested_map[i] = p.nested_map[i];
  }
  __syncthreads();

  const Place at = FindPlace(p);
  const int first_m = blockIdx.z * kTiles * 8;
  auto stage = [&](int s) { return Stage<kTiles>(stages + (s - at.first) % L::kStages * L::kStage); };
  for (int s = at.first; s < at.first + L::kStages - 1; ++s) {
    if (s < at.last) {
      stage(s).Load(p, at, s, first_m);
      stage(s).StoreMaximum(Stage<kTiles>::LoadMaximum(p, at, s, nested_map));
    }
    CommitAsync();
  }
  float acc[kTiles][4] = {};
  for (int s = at.first; s < at.last; ++s) {
    WaitAsync<L::kStages - 2>();
    __syncthreads();
    const int next = s + L::kStages - 1;
    float maximum = 0.0f;
    if (next < at.last) {
      stage(next).Load(p, at, next, first_m);
      maximum = Stage<kTiles>::LoadMaximum(p, at, next, nested_map);
    }
    CommitAsync();
    stage(s).Multiply(shared, acc);
    if (next < at.last) stage(next).StoreMaximum(maximum);
  }
  StorePartial<kTiles>(p, at, first_m, acc);
}

// scale-free low rank term of one output for kRowsPerThread rows.
constexpr int kRowsPerThread = 4;
constexpr int kFinishThreads = 128;

template <int kVec>
__device__ __forceinline__ void AddLowRank(const Nf4GemmParams& p, const Nf4GemmLowRankPart& part, int64_t o,
                                           int64_t first, float (&low)[kRowsPerThread]) {
  const __nv_bfloat16* b = static_cast<const __nv_bfloat16*>(part.b) + (o - part.first_row) * part.rank;
  const __nv_bfloat16* u = static_cast<const __nv_bfloat16*>(p.u) + part.first_column;
  for (int64_t r = 0; r < part.rank; r += kVec) {
    const auto weight = LoadVec<__nv_bfloat16, kVec>(b + r);
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      if (first + i >= p.M) break;
      const auto x = LoadVec<__nv_bfloat16, kVec>(u + (first + i) * p.u_stride + r);
#pragma unroll
      for (int j = 0; j < kVec; ++j) low[i] += ToFloat(weight.v[j]) * ToFloat(x.v[j]);
    }
  }
}

// Sum over the splits, adapters, bias, rounding. Grid: (blocks of 128 columns, groups of 4 rows).
__global__ void __launch_bounds__(kFinishThreads) nf4_gemm_finish_kernel(Nf4GemmParams p) {
  const int64_t o = int64_t{blockIdx.x} * kFinishThreads + threadIdx.x;
  if (o >= p.O) return;
  const int64_t first = int64_t{blockIdx.y} * kRowsPerThread;
  const float bias = p.bias ? ToFloat(static_cast<const __nv_bfloat16*>(p.bias)[o]) : 0.0f;
  float sum[kRowsPerThread] = {}, low[kRowsPerThread] = {};
#pragma unroll 8
  for (int64_t split = 0; split < p.splits; ++split) {
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      if (first + i < p.M) sum[i] += p.partial[(split * p.M + first + i) * p.O + o];
    }
  }
  for (int j = 0; j < p.num_low_rank; ++j) {
    const Nf4GemmLowRankPart& part = p.low_rank[j];
    if (o < part.first_row || o >= part.first_row + part.rows) continue;
    const bool wide = part.rank % 8 == 0 && part.first_column % 8 == 0 && p.u_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.u) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(part.b) % 16 == 0;
    wide ? AddLowRank<8>(p, part, o, first, low) : AddLowRank<1>(p, part, o, first, low);
  }
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    if (first + i >= p.M) continue;
    static_cast<__nv_bfloat16*>(p.y)[(first + i) * p.y_stride + o] =
        FromFloat<__nv_bfloat16>(sum[i] + p.scale * low[i] + bias);
  }
}

template <int kTiles>
void Launch(const Nf4GemmParams& p, CudaStream stream) {
  int64_t tiles = 0;
  for (int i = 0; i < p.num_parts; ++i) tiles += (p.parts[i].rows + kRows - 1) / kRows;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.splits),
                  static_cast<unsigned>((p.M + kTiles * 8 - 1) / (kTiles * 8)));
  cudaFuncSetAttribute(nf4_gemm_kernel<kTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       Layout<kTiles>::kBytes);
  nf4_gemm_kernel<kTiles><<<grid, kThreads, Layout<kTiles>::kBytes, stream>>>(p);
}

}  // namespace

void Nf4GemmCuda(const Nf4GemmParams& p, CudaStream stream) {
  if (p.M <= 8) {
    Launch<1>(p, stream);
  } else if (p.M <= 16) {
    Launch<2>(p, stream);
  } else if (p.M <= 32) {
    Launch<4>(p, stream);
  } else {
    Launch<8>(p, stream);
  }
  const dim3 grid(static_cast<unsigned>((p.O + kFinishThreads - 1) / kFinishThreads),
                  static_cast<unsigned>((p.M + kRowsPerThread - 1) / kRowsPerThread));
  nf4_gemm_finish_kernel<<<grid, kFinishThreads, 0, stream>>>(p);
}

}  // namespace finetuned::kernels
