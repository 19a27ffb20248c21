// What happens to attention's scores between q k^T and the softmax. Torch-free.
#pragma once

#include <algorithm>
#include <cstdint>

namespace finetuned::kernels {

struct ScoreOptions {
  double scale = 1.0;
  int64_t window = 0;  // a token sees so many tokens up to itself; 0: all before it
  double softcap = 0;  // scores become cap * tanh(scale * q k / cap); 0: they stay scale * q k

  // The first of `position` + 1 tokens that the last one sees.
  int64_t First(int64_t position) const { return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0; }
};

// Rows at a time of attention composed of products and elementwise operations (CUDA, softcap or float32), for a longest
// document: its temporaries, kComposedCopies float32 [heads, rows, length] at most, stay near 32 MiB each.
inline constexpr int64_t kComposedCopies = 6;
inline int64_t ComposedRows(int64_t heads, int64_t length) {
  return std::clamp<int64_t>((int64_t{8} << 20) / std::max<int64_t>(1, heads * length), 16, 1024);
}

}  // namespace finetuned::kernels
