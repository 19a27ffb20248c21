#include "engine/plan/linears.h"

#include <algorithm>

namespace finetuned::plan {

std::array<Linear, 7> LayerLinears(const format::ModelConfig& m) {
  return {{{"q_proj", m.hidden_size, m.q_size()},
           {"k_proj", m.hidden_size, m.kv_size()},
           {"v_proj", m.hidden_size, m.kv_size()},
           {"o_proj", m.q_size(), m.hidden_size},
           {"gate_proj", m.hidden_size, m.intermediate_size},
           {"up_proj", m.hidden_size, m.intermediate_size},
           {"down_proj", m.intermediate_size, m.hidden_size}}};
}

AdapterShape ShapeOf(const PlanInput& input) {
  return AdapterShape(input.lora_rank, input.rank_pattern, input.lora_layers, input.target_modules);
}

FusedLinears::FusedLinears(const PlanInput& input) {
  const auto linears = LayerLinears(input.model);
  const AdapterShape shape = ShapeOf(input);
  const int64_t layers = shape.uniform() ? 1 : input.model.num_hidden_layers;
  const auto fuse = [&](size_t first, size_t count) {
    Fused f = {linears[first].in, 0, 0};
    for (size_t i = first; i < first + count; ++i) f.out += linears[i].out;
    for (int64_t layer = 0; layer < layers; ++layer) {
      int64_t ranks = 0;
      for (size_t i = first; i < first + count; ++i) ranks += shape.Rank(layer, linears[i].name);
      f.ranks = std::max(f.ranks, ranks);
    }
    return f;
  };
  qkv = fuse(0, 3);
  o = fuse(3, 1);
  gate_up = fuse(4, 2);
  down = fuse(6, 1);
}

std::vector<int64_t> FourBitParts(int64_t n, bool double_quant) {
  const int64_t blocks = (n + 63) / 64;
  if (!double_quant) return {(n + 1) / 2, 4 * blocks};
  return {(n + 1) / 2, blocks, 4 * ((blocks + 255) / 256)};
}

}  // namespace finetuned::plan
