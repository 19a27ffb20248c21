#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/export/gguf_types.h"
#include "engine/export/merged_weights.h"

namespace finetuned::exports {

struct GgufOptions {
  std::string base_path;  // of MergedWeights::base()
  std::string name;       // general.name
  const GgufQuantization* quantization = nullptr;
};

// Writes the merged model as one GGUF file. Metadata of a GGUF base are copied, with their order, except file type and
// quantization version; of a Hugging Face base they are made from configuration and tokenizer. Refused before anything
// is written: architectures without a direct GGUF form (UNIMPLEMENTED), a full disk (RESOURCE_EXHAUSTED).
absl::Status WriteGguf(const MergedWeights& weights, const GgufOptions& options, const std::string& path,
                       const Progress& progress);

// Writes the adapter alone in llama.cpp's LoRA format (convert_lora_to_gguf.py): F32 matrices, alpha. Modules whose
// alpha / rank differs from the rest have the ratio put into B. UNIMPLEMENTED for what the format lacks: DoRA and
// replaced tensors. REQUIRES: weights.adapter().
absl::Status WriteLoraGguf(const MergedWeights& weights, const GgufOptions& options, const std::string& path,
                           const Progress& progress);

}  // namespace finetuned::exports
