// Row lookup of the frozen token embedding.
#pragma once

#include <ATen/core/Tensor.h>

namespace finetuned::kernels {

// out_TD[t] = table_VD[ids_T[t]].
//   table_VD  float32 or bfloat16 (CPU: any dtype), contiguous; on the device of out, or for a CUDA out in
//             pinned host memory, whose rows the kernel reads over the bus.  ids_T  int32.
//   out_TD    dtype of the table, contiguous, written.
// An id outside [0, V) is an error on the CPU and a row of NaN on CUDA (no sync to report it).
void EmbeddingGather(const at::Tensor& table_VD, const at::Tensor& ids_T, at::Tensor& out_TD);

}  // namespace finetuned::kernels
