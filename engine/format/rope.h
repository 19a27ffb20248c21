#pragma once

#include <vector>

#include "engine/format/model_config.h"

namespace finetuned::format {

// Angle per position of each rotary pair: head_dim / 2 values, highest frequency first. Computed in
// single precision in the order of transformers' LlamaRotaryEmbedding, so that angles agree with
// the reference also at large positions (torch's vector pow may differ by one unit in the last
// place). Source: modeling_rope_utils.py.
std::vector<double> InverseFrequencies(const ModelConfig& config);

}  // namespace finetuned::format
