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

bool IsTarget(const PlanInput& input, const std::string& name) {
  const auto& targets = input.target_modules;
  return targets.empty() || std::count(targets.begin(), targets.end(), "all-linear") > 0 ||
         std::count(targets.begin(), targets.end(), name) > 0;
}

FusedLinears::FusedLinears(const PlanInput& input) {
  const auto linears = LayerLinears(input.model);
  const auto fuse = [&](size_t first, size_t count) {
    Fused f = {linears[first].in, 0, 0};
    for (size_t i = first; i < first + count; ++i) {
      f.out += linears[i].out;
      f.ranks += IsTarget(input, linears[i].name) ? input.lora_rank : 0;
    }
    return f;
  };
  qkv = fuse(0, 3);
  o = fuse(3, 1);
  gate_up = fuse(4, 2);
  down = fuse(6, 1);
}

std::vector<int64_t> Nf4Parts(int64_t n) {
  const int64_t blocks = (n + 63) / 64;
  return {(n + 1) / 2, blocks, 4 * ((blocks + 255) / 256)};
}

}  // namespace finetuned::plan
