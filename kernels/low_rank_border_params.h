// Plain parameters of the border of a weight. Legend: I inputs, O outputs, G sum of the ranks.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct LowRankBorderParams {
  void* extended;  // [O + G, I + G]
  int64_t row_stride;
  int64_t I, O, G;
  const void* a;   // [G, I], null: not written
  int parts;
  const void* b[3];      // [rows, rank]
  int32_t first_row[3];
  int32_t rows[3];
  int32_t first_column[3];  // of I + G, counted from I
  int32_t rank[3];
  float scale;
};

void LowRankBorderCuda(const LowRankBorderParams& p, Dtype dtype, CudaStream stream);

}  // namespace finetuned::kernels
