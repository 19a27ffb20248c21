#include <initializer_list>

#include "engine/plan/collector.h"
#include "engine/plan/linears.h"

namespace finetuned::plan {
namespace {

// Calls visit(elements) for every tensor that trains.
template <typename Visit>
void ForEachTensor(const PlanInput& in, const Visit& visit) {
  const AdapterShape shape = ShapeOf(in);
  for (const Linear& l : LayerLinears(in.model)) {
    for (int64_t layer = 0; layer < in.model.num_hidden_layers; ++layer) {
      const int64_t rank = shape.Rank(layer, l.name);
      if (l.bias && TrainsBias(in.biases, rank > 0)) visit(l.out);
      if (rank == 0) continue;
      visit(rank * l.in);
      visit(rank * l.out);
      if (in.use_dora) visit(l.out);
    }
  }
  const int64_t whole = in.model.vocab_size * in.model.hidden_size;
  if (in.train_embed_tokens) visit(whole);
  if (in.train_lm_head) visit(whole);
}

// As train::Optimizer: tensors below 4,096 elements keep float32 moments, larger ones two codes per element
// and two float32 scales per 256.
int64_t MomentBytes(const PlanInput& in) {
  if (in.optimizer == Optimizer::kAdamW) return 8 * CountLoraParameters(in);
  constexpr int64_t kSmall = 4096, kBlock = 256;
  int64_t bytes = 0;
  ForEachTensor(in, [&](int64_t n) { bytes += n < kSmall ? 8 * n : 2 * n + 8 * ((n + kBlock - 1) / kBlock); });
  return bytes;
}

// DoRA: norm and gain of every output of the fused linears that have adapters.
int64_t DoraBytes(const PlanInput& in) {
  const FusedLinears fused(in);
  int64_t outputs = 0;
  for (const Fused& linear : fused.all()) outputs += linear.ranks > 0 ? linear.out : 0;
  return in.use_dora ? in.model.num_hidden_layers * outputs * 2 * 4 : 0;
}

}  // namespace

void AddAdapter(const PlanInput& in, Collector& c) {
  const int64_t n = CountLoraParameters(in);
  c.Add("adapter", "lora_master", 4 * n);
  // Where the patterns give linears of one product different scales, the matrices are kept scaled beside the masters.
  const int64_t compute = in.compute_bytes != 4 || in.mixed_scaling ? in.compute_bytes * n : 0;
  if (compute > 0) c.Add("adapter", "lora_compute", compute);
  c.Add("adapter", "dora_norms", DoraBytes(in));
  if (in.frozen_adapter) c.Add("adapter", "frozen_adapter", 4 * n + compute + DoraBytes(in));
  if (in.method == Method::kEvaluate) return;
  c.Add("gradients", "lora_gradients", 4 * n);
  c.Add("optimizer", "moments", MomentBytes(in));
}

int64_t CountLoraParameters(const PlanInput& input) {
  int64_t n = 0;
  ForEachTensor(input, [&](int64_t elements) { n += elements; });
  return n;
}

}  // namespace finetuned::plan
