#include "engine/plan/linears.h"

#include <algorithm>

namespace finetuned::plan {

AdapterShape ShapeOf(const PlanInput& input) {
  return AdapterShape(input.lora_rank, input.rank_pattern, input.lora_layers, input.target_modules);
}

FusedLinears::FusedLinears(const PlanInput& input) {
  const AdapterShape shape = ShapeOf(input);
  const int64_t layers = shape.uniform() ? 1 : input.model.num_hidden_layers;
  const auto fuse = [&](format::LinearGroup group) {
    Fused f = {0, 0, 0};
    std::vector<int64_t> ranks(static_cast<size_t>(layers));
    for (const Linear& linear : LayerLinears(input.model)) {
      if (linear.group != group) continue;
      f.in = linear.in;
      f.out += linear.out;
      for (int64_t layer = 0; layer < layers; ++layer) ranks[static_cast<size_t>(layer)] += shape.Rank(layer, linear.name);
    }
    for (const int64_t sum : ranks) f.ranks = std::max(f.ranks, sum);
    return f;
  };
  qkv = fuse(format::LinearGroup::kQkv);
  o = fuse(format::LinearGroup::kO);
  gate_up = fuse(format::LinearGroup::kGateUp);
  down = fuse(format::LinearGroup::kDown);
}

std::vector<int64_t> NormWeights(const format::ModelConfig& m) {
  std::vector<int64_t> weights;
  for (const format::LayerNorm& norm : format::LayerNorms(m)) {
    int64_t elements = 1;
    for (const int64_t size : norm.shape) elements *= size;
    weights.push_back(elements);
  }
  return weights;
}

std::vector<int64_t> FourBitParts(int64_t n, bool double_quant) {
  const int64_t blocks = (n + 63) / 64;
  if (!double_quant) return {(n + 1) / 2, 4 * blocks};
  return {(n + 1) / 2, blocks, 4 * ((blocks + 255) / 256)};
}

}  // namespace finetuned::plan
