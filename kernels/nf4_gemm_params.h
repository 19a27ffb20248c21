// Plain parameters of the NF4 product. Legend: see nf4_gemm.h.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct Nf4GemmPart {
  const uint8_t* codes;     // [rows, I / 2]
  const uint8_t* absmax_q;  // [rows, I / 64]; null when not nested
  const float* absmax2;
  const float* absmax;  // [rows, I / 64]; null when nested
  float offset;
  int64_t first_row;
  int64_t rows;
};

struct Nf4GemmLowRankPart {
  const void* b;  // [rows, rank]
  int64_t first_row;
  int64_t rows;
  int64_t rank;
  int64_t first_column;  // of u
};

struct Nf4GemmParams {
  const void* x;  // [M, I], rows x_stride apart
  const void* u;  // [M, G], rows u_stride apart; null: no adapters
  const void* bias;  // [O]; null: none
  void* y;        // [M, O], rows y_stride apart
  float* partial; // [splits, M, O]
  const float* code_map;    // [16]
  const float* nested_map;  // [256] or null
  Nf4GemmPart parts[3];
  Nf4GemmLowRankPart low_rank[3];
  int num_parts, num_low_rank;
  int64_t M, I, O;
  int64_t x_stride, u_stride, y_stride;
  int64_t splits;
  float scale;
};

// absmax of block `block` of a part.
FT_HOST_DEVICE float Nf4BlockMax(const Nf4GemmPart& part, const float* nested_map, int64_t block) {
  if (part.absmax != nullptr) return part.absmax[block];
#ifdef __CUDA_ARCH__
  return __fadd_rn(__fmul_rn(nested_map[part.absmax_q[block]], part.absmax2[block / 256]), part.offset);
#else
  return nested_map[part.absmax_q[block]] * part.absmax2[block / 256] + part.offset;
#endif
}

void Nf4GemmCpu(const Nf4GemmParams& p);
void Nf4GemmCuda(const Nf4GemmParams& p, CudaStream stream);

}  // namespace finetuned::kernels
