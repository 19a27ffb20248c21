#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/format/model_layout.h"
#include "engine/plan/adapter_shape.h"
#include "engine/plan/memory_plan.h"

// The linears of a decoder layer as the engine stores and adapts them. For the files of this folder.
namespace finetuned::plan {

using Linear = format::LayerLinear;
using format::LayerLinears;

AdapterShape ShapeOf(const PlanInput& input);

// A fused linear with the sum of its adapters' ranks, the largest of all layers.
struct Fused {
  int64_t in, out, ranks;
};

struct FusedLinears {
  Fused qkv, o, gate_up, down;

  explicit FusedLinears(const PlanInput& input);
  std::array<Fused, 4> all() const { return {qkv, o, gate_up, down}; }
};

// Weights of each norm of a layer.
std::vector<int64_t> NormWeights(const format::ModelConfig& model);

// The allocations of a 4-bit matrix of n weights: codes, one absmax byte per 64 weights, one float per 256 of these;
// without double quantization one float per 64.
std::vector<int64_t> FourBitParts(int64_t n, bool double_quant);

}  // namespace finetuned::plan
