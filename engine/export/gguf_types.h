#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/format/model_config.h"
#include "engine/format/tensor_info.h"

// Which tensor of a GGUF file has which type. Source: llama_tensor_get_type of llama.cpp's llama-quant.cpp, without
// importance matrix.
namespace finetuned::exports {

struct GgufQuantization {
  const char* name;       // "q4_k_m"
  format::DType type;     // of most matrices
  uint32_t file_type;     // general.file_type
  // The rise of perplexity, as a ratio to base + adapter, that an export may have by default.
  double max_perplexity_increase;
};

// Null for an unknown name.
const GgufQuantization* FindGgufQuantization(absl::string_view name);
std::vector<std::string> GgufQuantizationNames();

// Type of a tensor by its GGUF name and row-major shape. Vectors and norms stay F32; the *_m mixes give attn_v and
// ffn_down of some layers more bits, the head (or a tied embedding) has Q6_K; rows that are no whole number of blocks
// fall back to Q5_0, Q5_1, Q8_0, or F16.
format::DType GgufTypeOf(const GgufQuantization& quantization, const format::ModelConfig& config,
                         absl::string_view name, const std::vector<int64_t>& shape);

}  // namespace finetuned::exports
