// Plain parameters of 8-bit codes with a scale per row. Legend as in row_codes.h.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct RowCodesParams {
  const void* codes;   // [O, I]
  const float* scale;  // [O]
  void* out;           // [O, I] float32 or bfloat16
  int64_t out_stride;  // elements from row to row
  int64_t O, I;
};

// fp8: codes are e4m3, otherwise int8.
void DequantizeRowCodesCpu(const RowCodesParams& p, Dtype dtype, bool fp8);
void DequantizeRowCodesCuda(const RowCodesParams& p, Dtype dtype, bool fp8, CudaStream stream);

}  // namespace finetuned::kernels
