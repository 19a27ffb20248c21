#include <initializer_list>

#include "engine/plan/collector.h"
#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

// As train::Optimizer: matrices below 4,096 elements keep float32 moments, larger ones two codes per element
// and two float32 scales per 256.
int64_t MomentBytes(const PlanInput& in) {
  if (in.optimizer == Optimizer::kAdamW) return 8 * CountLoraParameters(in);
  constexpr int64_t kSmall = 4096, kBlock = 256;
  int64_t bytes = 0;
  for (const Linear& l : LayerLinears(in.model)) {
    if (!IsTarget(in, l.name)) continue;
    for (const int64_t n : {in.lora_rank * l.in, in.lora_rank * l.out}) {
      bytes += n < kSmall ? 8 * n : 2 * n + 8 * ((n + kBlock - 1) / kBlock);
    }
  }
  return bytes * in.model.num_hidden_layers;
}

}  // namespace

void AddAdapter(const PlanInput& in, Collector& c) {
  const int64_t n = CountLoraParameters(in);
  c.Add("adapter", "lora_master", 4 * n);
  if (in.compute_bytes != 4) c.Add("adapter", "lora_compute", in.compute_bytes * n);
  c.Add("gradients", "lora_gradients", 4 * n);
  c.Add("optimizer", "moments", MomentBytes(in));
}

int64_t CountLoraParameters(const PlanInput& input) {
  int64_t n = 0;
  for (const Linear& l : LayerLinears(input.model)) {
    if (IsTarget(input, l.name)) n += input.lora_rank * (l.in + l.out);
  }
  return n * input.model.num_hidden_layers;
}

}  // namespace finetuned::plan
