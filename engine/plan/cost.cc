#include "engine/plan/cost.h"

#include <iterator>

#include "engine/plan/linears.h"

namespace finetuned::plan {

double TrainFlopsPerToken(const PlanInput& input, double mean_length) {
  const format::ModelConfig& m = input.model;
  const auto layers = static_cast<double>(m.num_hidden_layers);
  const double head = static_cast<double>(m.vocab_size) * static_cast<double>(m.hidden_size);
  const auto linears = LayerLinears(m);
  double layer = 0;
  for (const Linear& l : linears) layer += static_cast<double>(l.in) * static_cast<double>(l.out);
  const Linear& last = *std::rbegin(linears);
  const double repeated = layer - static_cast<double>(last.in) * static_cast<double>(last.out);
  // Causal attention: two products over half the context, forward once and backward twice and a half.
  const double attention = 2.0 * layers * static_cast<double>(m.q_size()) * mean_length / 2.0;
  const double recompute = input.activation_checkpointing ? 1.0 : 0.0;
  return 2.0 * (2.0 * (head + layers * layer) + recompute * layers * repeated) +
         2.0 * attention * (3.5 + recompute) + 6.0 * static_cast<double>(CountLoraParameters(input));
}

}  // namespace finetuned::plan
