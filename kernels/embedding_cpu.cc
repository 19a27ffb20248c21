#include <ATen/Parallel.h>

#include <cstring>

#include "kernels/embedding_params.h"

namespace finetuned::kernels {

int64_t EmbeddingCpu(const EmbeddingParams& p) {
  for (int64_t t = 0; t < p.T; ++t) {
    if (p.ids[t] < 0 || p.ids[t] >= p.V) return t;
  }
  const char* table = static_cast<const char*>(p.table);
  char* out = static_cast<char*>(p.out);
  at::parallel_for(0, p.T, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      std::memcpy(out + t * p.row_bytes, table + p.ids[t] * p.row_bytes, p.row_bytes);
    }
  });
  return -1;
}

}  // namespace finetuned::kernels
