// Plain parameters of the fused gradients of adapters. Legend: T rows, R rank of each part.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

inline constexpr int kMaxGradientParts = 3;

// A group is the columns of one part that are summed together: du_partial has a matrix for each.
struct LowRankGradientsParams {
  const void* dy;  // bfloat16, rows dy_stride apart, like the next two
  const void* u;
  void* du;
  int64_t dy_stride, u_stride, du_stride;
  int64_t T;
  int rank;
  float scale;
  int splits;        // of the rows
  int parts;
  int groups;        // of all parts
  int width;         // of all parts
  const void* b[kMaxGradientParts];          // bfloat16 [width, R]
  float* db[kMaxGradientParts];              // [width, R]
  int32_t first_column[kMaxGradientParts];   // of dy
  int32_t part_width[kMaxGradientParts];
  int32_t first_group[kMaxGradientParts];
  int32_t first_row[kMaxGradientParts];      // of db_partial
  float* du_partial;  // [groups, T, R]
  float* db_partial;  // [splits, width, R]
};

void LowRankGradientsCuda(const LowRankGradientsParams& p, CudaStream stream);

// du and dB from the partial sums of the groups and of the splits; what every kernel that writes those ends with.
void SumLowRankGradientsCuda(const LowRankGradientsParams& p, CudaStream stream);

}  // namespace finetuned::kernels
