#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/model_config.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// Linears of a layer that read the same input; the engine runs them as one.
enum class LinearGroup { kQkv, kO, kGateUp, kDown };

// A stored matrix of a layer.
struct LayerLinear {
  const char* path;  // "self_attn.q_proj"
  const char* name;  // "q_proj"
  LinearGroup group;
  int64_t in, out;
  bool bias;
};

// In the order of forward.
std::vector<LayerLinear> LayerLinears(const ModelConfig& config);

// INVALID_ARGUMENT when a name is neither "all-linear" nor a linear of this model, with the list of these.
absl::Status CheckLinearNames(const std::vector<std::string>& names, const ModelConfig& config);

// Name of a layer's norm before the MLP; empty when the block has none of its own.
const char* MlpNormName(const ModelConfig& config);

struct LayerNorm {
  std::string name;  // "input_layernorm"
  std::vector<int64_t> shape;
};
// Every norm of a layer.
std::vector<LayerNorm> LayerNorms(const ModelConfig& config);

// Every tensor of the architecture, in the order of the forward pass: embedding, layers, final
// norm, and lm_head unless it is tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// Ranges and divisibility. INVALID_ARGUMENT naming `file`, field and value.
absl::Status CheckConfig(const ModelConfig& config, const std::string& file);

// Compares the tensors of a model with ExpectedTensors: each present, with its shape and a weight
// type. Returns their positions in `found` in expected order. A tensor that no decoder of this kind
// has is an error; rotary tables and an lm_head beside tied embeddings are passed over.
// INVALID_ARGUMENT naming `file`, tensor, expected and found.
absl::StatusOr<std::vector<size_t>> MatchTensors(const ModelConfig& config,
                                                 const std::vector<TensorInfo>& found,
                                                 const std::string& file);

}  // namespace finetuned::format
