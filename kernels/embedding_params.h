// Plain parameters of the embedding lookup. Legend: V rows of the table, T tokens.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace finetuned::kernels {

struct EmbeddingParams {
  const void* table;   // [V, row_bytes]
  const int32_t* ids;  // [T]
  void* out;           // [T, row_bytes]
  int64_t V;
  int64_t T;
  int64_t row_bytes;
};

// Returns the index of the first id outside [0, V), or -1; rows with such an id stay unwritten.
int64_t EmbeddingCpu(const EmbeddingParams& p);
// Rows with an id outside [0, V) become bytes of 0xff, NaN in both dtypes.
void EmbeddingCuda(const EmbeddingParams& p, CudaStream stream);

}  // namespace finetuned::kernels
