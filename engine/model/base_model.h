// The frozen weights of a decoder on the device that trains.
// Legend: V vocabulary, D hidden size, E head size, R its rotated part.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_config.h"
#include "engine/format/model_layout.h"
#include "engine/format/model_source.h"
#include "engine/model/frozen_linear.h"
#include "engine/plan/memory_plan.h"

namespace finetuned::model {

struct LoadOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // compute type: kFloat or kBFloat16
  plan::BaseFormat base = plan::BaseFormat::kNf4;  // of the linears of the layers
  plan::MatmulPrecision precision = plan::MatmulPrecision::kCompute;  // of their products; others need 4-bit codes
  bool double_quant = true;           // of 4-bit formats: the scales in 8 bits
  double int8_threshold = 0;          // above 0: products of an INT8 base take INT8 inputs (int8_product.h)
  std::vector<std::string> skip_modules;  // of linears in the compute type: see plan/module_pattern.h
  bool nf4_lm_head = false;      // the head as NF4 with double quantization; refused where it is the embedding too
  bool embed_on_device = false;  // see PlaceEmbedding

  bool quantized() const { return base != plan::BaseFormat::kCompute; }

  bool operator==(const LoadOptions&) const = default;
};

struct LayerWeights {
  // What a norm multiplies with: in the compute type, or float32 where the family normalizes in float32; stored weights
  // that lack 1 have it here. Undefined: the family has no such norm.
  at::Tensor input_norm_D, mlp_norm_D;
  at::Tensor attention_post_norm_D, mlp_post_norm_D;  // of what attention and MLP add
  at::Tensor q_norm, k_norm;                          // [E], or [heads, E]
  FrozenLinear qkv;      // rows: q, k, v
  FrozenLinear o;
  FrozenLinear gate_up;  // rows: gate, up
  FrozenLinear down;

  // By the names and groups of format/model_layout.h.
  at::Tensor& norm(const format::ModelConfig& model, const std::string& name);
  FrozenLinear& linear(format::LinearGroup group);
};

// Immutable after loading.
struct BaseModel {
  format::ModelConfig config;
  LoadOptions options;
  std::string fingerprint;
  at::Tensor embed_VD;              // see PlaceEmbedding
  FrozenLinear lm_head;             // [V, D]; when tied the embedding itself
  at::Tensor final_norm_D;          // the family's logits multiplier included
  // float32 [R/2], scaling applied; R rotated elements of a head. Undefined: the family has no such table.
  at::Tensor inv_freq, long_inv_freq, local_inv_freq;
  std::vector<LayerWeights> layers;

  int64_t bytes() const;  // of everything above that is on the device
};

// The type of 8-bit codes that products take; nothing: products take the compute type.
std::optional<at::ScalarType> CodesOf(plan::MatmulPrecision precision);

// A plan's model, base, compute_bytes, precision and on_gpu, as loaded.
plan::PlanInput PlanInputOf(const BaseModel& base);

// Where the embedding lies: a step reads one row per token, so unless it is the lm_head too, a GPU reads it from
// pinned host memory and its own is left to what is used in full; or options.embed_on_device asks otherwise.
at::Tensor PlaceEmbedding(const at::Tensor& embed_VD, const format::ModelConfig& config, const LoadOptions& options);

// Fills the tables of frequencies.
void SetFrequencies(BaseModel* model);

// Reads and, where asked, quantizes every weight; needs host memory for the largest matrix in float32
// beside the result. INVALID_ARGUMENT names file, tensor and element for weights that are missing, of
// another shape than the configuration says, or not finite. Out of memory: c10::Error.
absl::StatusOr<std::shared_ptr<BaseModel>> LoadBaseModel(const format::ModelSource& source,
                                                         const std::string& path,
                                                         const LoadOptions& options);

}  // namespace finetuned::model
