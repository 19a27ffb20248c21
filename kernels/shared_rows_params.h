// Plain parameters of the shared rows. Legend: T rows, G copies, C columns.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct CopySharedRowsParams {
  const void* x;        // [T, C]
  const int32_t* rows;  // [G]
  void* out;            // [G, C]
  int64_t G, C;
  int64_t x_stride, out_stride;  // elements from row to row
  Dtype dtype;
};

struct SumSharedRowsParams {
  const void* d;           // [G, C]
  const int32_t* offsets;  // [T + 1]
  const int32_t* copies;   // [G]
  void* out;               // [T, C]
  int64_t T, C;
  int64_t d_stride, out_stride;  // elements from row to row
  Dtype dtype;
};

void CopySharedRowsCpu(const CopySharedRowsParams& p);
void CopySharedRowsCuda(const CopySharedRowsParams& p, CudaStream stream);
void SumSharedRowsCpu(const SumSharedRowsParams& p);
void SumSharedRowsCuda(const SumSharedRowsParams& p, CudaStream stream);

}  // namespace finetuned::kernels
