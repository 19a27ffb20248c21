#pragma once

#include <vector>

#include "engine/format/model_config.h"

namespace finetuned::format {

enum class RopeTable {
  kMain,
  kLong,   // LongRoPE, texts longer than original_max_position_embeddings
  kLocal,  // local_rope_theta, without scaling
};

// Angle per position of each rotary pair: rotary_size() / 2 values, highest frequency first. Computed in
// single precision in the order of transformers' LlamaRotaryEmbedding, so that angles agree with
// the reference also at large positions (torch's vector pow may differ by one unit in the last
// place). Source: modeling_rope_utils.py.
std::vector<double> InverseFrequencies(const ModelConfig& config, RopeTable table = RopeTable::kMain);

}  // namespace finetuned::format
