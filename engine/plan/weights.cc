#include <algorithm>
#include <string>
#include <vector>

#include "engine/plan/collector.h"
#include "engine/plan/head.h"
#include "engine/plan/linears.h"
#include "engine/plan/module_pattern.h"
#include "engine/plan/standing_weights.h"

namespace finetuned::plan {
namespace {

// The allocations of one matrix of a layer.
std::vector<int64_t> MatrixParts(const PlanInput& in, const Linear& l) {
  const int64_t n = l.in * l.out;
  switch (in.base) {
    case BaseFormat::kNf4:
    case BaseFormat::kFp4: return FourBitParts(n, in.double_quant);
    case BaseFormat::kInt8:
    case BaseFormat::kFp8: return {n, 4 * l.out};
    case BaseFormat::kCompute: break;
  }
  return {n * in.compute_bytes};
}

// Layers in which `linear` keeps the compute type.
int64_t SkippedLayers(const PlanInput& in, const ModulePatterns& skip, const std::string& linear) {
  if (skip.empty() || in.base == BaseFormat::kCompute) return 0;
  int64_t count = 0;
  for (int64_t i = 0; i < in.model.num_hidden_layers; ++i) count += skip.Matches(ModuleName(i, linear)) ? 1 : 0;
  return count;
}

void AddLinears(const PlanInput& in, Collector& c) {
  const ModulePatterns skip(in.skip_modules);
  for (const Linear& l : LayerLinears(in.model)) {
    const int64_t dense = SkippedLayers(in, skip, l.name);
    const std::string name = std::string("layer.") + l.name;
    c.AddParts("weights", name, MatrixParts(in, l), in.model.num_hidden_layers - dense);
    if (dense > 0) c.AddParts("weights", name, {l.in * l.out * in.compute_bytes}, dense);
  }
}

// Upper bound where skip_modules leaves some dense. One reused buffer holds the fused matrix in use, dequantized, with its
// adapters around it; when pieces of rows come back to the matrices of a layer, those of qkv or gate_up, of down and of o.
// Of some layers all may stay.
struct Dequantized {
  int64_t elements = 0;           // of the reused buffer
  int64_t standing_layers = 0;
  int64_t layer_elements = 0;     // of a layer that stays

  explicit Dequantized(const PlanInput& in) {
    if (in.base == BaseFormat::kCompute) return;
    const auto of = [](const Fused& f) { return (f.out + f.ranks) * (f.in + SpareColumns(f.ranks)); };
    const FusedLinears fused(in);
    const int64_t wide = std::max(of(fused.qkv), of(fused.gate_up)), layers = in.model.num_hidden_layers;
    layer_elements = of(fused.qkv) + of(fused.o) + of(fused.gate_up) + of(fused.down);
    if (!in.use_dora) {
      standing_layers = StandingLayers(in.standing_layers, layers, layers * layer_elements * in.compute_bytes, in.on_gpu,
                                       in.activation_checkpointing);
    }
    if (standing_layers == layers) return;
    elements = in.activation_checkpointing ? wide + of(fused.down) + of(fused.o) : std::max({wide, of(fused.down), of(fused.o)});
  }
};

// A GPU reads an embedding that is not the head too from the host (model::PlaceEmbedding).
bool EmbeddingOnHost(const PlanInput& in) {
  return in.on_gpu && !in.model.tie_word_embeddings && !in.embed_on_device;
}

void AddEmbeddings(const PlanInput& in, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t n = m.vocab_size * m.hidden_size;
  if (!EmbeddingOnHost(in)) c.Add("weights", "embed_tokens", n * in.compute_bytes);
  if (m.tie_word_embeddings) return;
  if (in.nf4_lm_head) {
    c.AddParts("weights", "lm_head", FourBitParts(n, /*double_quant=*/true), 1);
  } else {
    c.Add("weights", "lm_head", n * in.compute_bytes);
  }
}

// As model::LayerWeights holds them.
void AddNorms(const PlanInput& in, Collector& c) {
  const format::ModelConfig& m = in.model;
  const bool rounded = m.norm == format::NormKind::kRms;
  std::vector<int64_t> parts = {m.hidden_size * (rounded && m.logits_multiplier == 1 ? in.compute_bytes : 4)};
  for (int64_t layer = 0; layer < m.num_hidden_layers; ++layer) {
    for (const int64_t weights : NormWeights(m)) parts.push_back(weights * (rounded ? in.compute_bytes : 4));
  }
  c.AddParts("weights", "norms", parts, 1);
}

}  // namespace

int64_t MostStandingLayers(const PlanInput& in) {
  return in.base != BaseFormat::kCompute && in.on_gpu && !in.use_dora ? in.model.num_hidden_layers : 0;
}

int64_t PlannedStandingLayers(const PlanInput& in) { return Dequantized(in).standing_layers; }

void AddWeights(const PlanInput& in, Collector& c) {
  const format::ModelConfig& m = in.model;
  const int64_t layers = m.num_hidden_layers;
  AddEmbeddings(in, c);
  AddNorms(in, c);
  AddLinears(in, c);
  const FusedLinears fused(in);
  int64_t biases = 0;
  for (const Linear& l : LayerLinears(m)) biases += l.bias ? l.out : 0;
  c.Add("weights", "layer.biases", layers * biases * in.compute_bytes, layers);
  if (in.precision != MatmulPrecision::kCompute) {
    std::vector<int64_t> scales;  // of rows and columns
    for (const Fused& f : fused.all()) {
      scales.push_back(4 * f.out);
      scales.push_back(4 * f.in);
    }
    c.AddParts("weights", "layer.code_scales", scales, layers);
  }
  const Dequantized dequantized(in);
  c.Add("runtime", "dequantized_weight", dequantized.elements * in.compute_bytes);
  c.Add("runtime", "standing_weights", dequantized.standing_layers * dequantized.layer_elements * in.compute_bytes,
        std::max<int64_t>(1, dequantized.standing_layers));
  // An embedding that stays beside them, see AddEmbeddings.
  if (dequantized.standing_layers == layers && EmbeddingOnHost(in)) {
    c.Add("runtime", "standing_embedding", m.vocab_size * m.hidden_size * in.compute_bytes);
  }
  // Where all weights of layers stay, there is no buffer of theirs for the head to share.
  const int64_t shared = dequantized.standing_layers == layers ? 0 : dequantized.elements;
  c.Add("runtime", "dequantized_head", HeadScratchElements(in, shared) * in.compute_bytes);
}

}  // namespace finetuned::plan
