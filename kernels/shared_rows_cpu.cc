#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "kernels/shared_rows_params.h"

namespace finetuned::kernels {
namespace {

constexpr int64_t kGrain = 64;  // rows

template <typename S>
void Sum(const SumSharedRowsParams& p) {
  const S* d = static_cast<const S*>(p.d);
  S* out = static_cast<S*>(p.out);
  at::parallel_for(0, p.T, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      S* sum = out + t * p.out_stride;
      std::fill(sum, sum + p.C, S(0));
      for (int32_t i = p.offsets[t]; i < p.offsets[t + 1]; ++i) {
        const S* copy = d + p.copies[i] * p.d_stride;
        for (int64_t c = 0; c < p.C; ++c) sum[c] += copy[c];
      }
    }
  });
}

}  // namespace

void CopySharedRowsCpu(const CopySharedRowsParams& p) {
  const int64_t bytes = DtypeBytes(p.dtype);
  at::parallel_for(0, p.G, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      std::memcpy(static_cast<char*>(p.out) + g * p.out_stride * bytes,
                  static_cast<const char*>(p.x) + p.rows[g] * p.x_stride * bytes,
                  static_cast<size_t>(p.C * bytes));
    }
  });
}

void SumSharedRowsCpu(const SumSharedRowsParams& p) {
  p.dtype == Dtype::kFloat64 ? Sum<double>(p) : Sum<float>(p);
}

}  // namespace finetuned::kernels
