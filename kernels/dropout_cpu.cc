// Truth of dropout.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>

#include "kernels/dropout_params.h"
#include "kernels/philox.h"

namespace finetuned::kernels {
namespace {

template <typename T>
void Dropout(const DropoutParams& p) {
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  at::parallel_for(0, (p.n + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const PhiloxWords words = Philox(p.first_group + static_cast<uint64_t>(group), p.offset, p.seed);
      const int64_t last = std::min<int64_t>(4, p.n - 4 * group);
      for (int64_t j = 0; j < last; ++j) {
        const float value = static_cast<float>(x[4 * group + j]) * p.scale;
        y[4 * group + j] = static_cast<T>(words.v[j] >= p.threshold ? value : 0.0f);
      }
    }
  });
}

}  // namespace

void DropoutCpu(const DropoutParams& p, Dtype dtype) {
  dtype == Dtype::kFloat32 ? Dropout<float>(p) : Dropout<c10::BFloat16>(p);
}

}  // namespace finetuned::kernels
