// Rows that several readers use: copied to where each reads them, and what the readers send back summed up. Legend: T
// rows, G copies, C columns.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

// out_GC[g] = x_TC[rows_G[g]].
//   x_TC, out_GC  one dtype; rows may lie further apart than C.
//   rows_G        int32, each in [0, T); not checked on CUDA.
void CopySharedRows(const at::Tensor& x_TC, const at::Tensor& rows_G, at::Tensor& out_GC);

// out_TC[t] = sum of d_GC[copies_G[i]] over i in [offsets_T1[t], offsets_T1[t + 1]): the gradient of CopySharedRows, with
// copies_G the copies of row 0, then those of row 1, ... Summed in float32 (float64 for float64) in this order: equal
// bits each time.
//   d_GC, out_TC  one dtype; rows may lie further apart than C. out is written.
//   offsets_T1    int32 [T + 1], from 0 to G. copies_G: int32, each in [0, G); not checked on CUDA.
void SumSharedRows(const at::Tensor& d_GC, const at::Tensor& offsets_T1, const at::Tensor& copies_G,
                   at::Tensor& out_TC);

}  // namespace finetuned::kernels
