#include "engine/plan/low_rank.h"

#include <algorithm>
#include <utility>

#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

constexpr int64_t kGateColumns = 256;  // of gate and of up that a block of their kernel takes at a time
constexpr int64_t kGroup = 512;        // of a part that a block sums up

// `blocks` take some rows each. 264: two on each multiprocessor of an H100; more than a smaller GPU needs is no loss there.
int64_t SplitsOf(int64_t blocks, int64_t rows) {
  return std::clamp<int64_t>(264 / std::max<int64_t>(1, blocks), 1, std::max<int64_t>(1, (rows + 63) / 64));
}

}  // namespace

LowRankSums LowRankSumsOf(const std::vector<int64_t>& widths, int64_t rank, int64_t rows) {
  int64_t groups = 0, width = 0;
  for (int64_t w : widths) {
    groups += (w + kGroup - 1) / kGroup;
    width += w;
  }
  LowRankSums sums;
  sums.splits = SplitsOf(groups, rows);
  sums.elements = (groups * rows + sums.splits * width) * rank;
  return sums;
}

LowRankSums GateLowRankSumsOf(int64_t intermediate_size, int64_t rank, int64_t rows) {
  const int64_t blocks = (intermediate_size + kGroup - 1) / kGroup;
  LowRankSums sums;
  sums.splits = SplitsOf(blocks, rows);
  sums.elements = (2 * blocks * rows + sums.splits * 2 * intermediate_size) * rank;
  return sums;
}

int64_t LowRankGradientElements(const PlanInput& in, int64_t rows) {
  if (!in.on_gpu || in.compute_bytes != 2) return 0;
  const auto linears = LayerLinears(in.model);
  const AdapterShape shape = ShapeOf(in);
  constexpr size_t kGateUp = 4;
  constexpr std::pair<size_t, size_t> kFused[] = {{0, 3}, {3, 1}, {kGateUp, 2}, {6, 1}};
  int64_t most = 0;
  for (int64_t layer = 0; layer < (shape.uniform() ? 1 : in.model.num_hidden_layers); ++layer) {
    for (const auto& [first, count] : kFused) {
      std::vector<int64_t> widths;
      int64_t rank = 0;
      bool fused = true;
      for (size_t i = first; i < first + count; ++i) {
        const int64_t r = shape.Rank(layer, linears[i].name);
        if (r == 0) continue;
        fused = fused && (rank == 0 || rank == r) && (r == 16 || r == 32) && linears[i].out % 64 == 0;
        rank = r;
        widths.push_back(linears[i].out);
      }
      if (!fused || rank == 0) continue;
      most = std::max(most, LowRankSumsOf(widths, rank, rows).elements);
      if (first == kGateUp && widths.size() == 2 && widths[0] % kGateColumns == 0) {
        most = std::max(most, GateLowRankSumsOf(widths[0], rank, rows).elements);
      }
    }
  }
  return most;
}

}  // namespace finetuned::plan
