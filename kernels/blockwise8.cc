#include "kernels/blockwise8.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace finetuned::kernels {
namespace {

// Torch's linspace(0.1, 1, n) in float32 on a CPU with fused multiply-adds: from the start in the
// first half, from the end in the second.
std::vector<float> Linspace(int n) {
  const float start = 0.1f, end = 1.0f;
  const float step = (end - start) / static_cast<float>(n - 1);
  std::vector<float> values(n);
  for (int i = 0; i < n; ++i) {
    values[i] = i < n / 2 ? std::fma(step, static_cast<float>(i), start)
                          : std::fma(-step, static_cast<float>(n - i - 1), end);
  }
  return values;
}

// Seven decades, each cut into twice as many equal pieces as the one below; the map holds the
// middles of the pieces, 0 and 1.
std::array<float, 256> DynamicMap(bool with_sign) {
  constexpr double kPowers[7] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
  std::vector<float> values = {0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    const std::vector<float> bounds = Linspace((1 << (with_sign ? i : i + 1)) + 1);
    for (size_t j = 0; j + 1 < bounds.size(); ++j) {
      const float middle = (bounds[j] + bounds[j + 1]) / 2.0f;
      const float value = static_cast<float>(kPowers[i]) * middle;
      values.push_back(value);
      if (with_sign) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> map;
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

}  // namespace

const std::array<float, 256>& SignedDynamicMap() {
  static const std::array<float, 256> map = DynamicMap(true);
  return map;
}

const std::array<float, 256>& UnsignedDynamicMap() {
  static const std::array<float, 256> map = DynamicMap(false);
  return map;
}

}  // namespace finetuned::kernels
