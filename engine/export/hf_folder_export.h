#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "engine/export/merged_weights.h"
#include "engine/format/tensor_info.h"

namespace finetuned::exports {

struct HfFolderOptions {
  std::string base_path;       // of MergedWeights::base()
  format::DType dtype = format::DType::kBF16;  // of every tensor: F32, F16 or BF16
  int64_t max_shard_bytes = 5'000'000'000;     // of tensors; a larger tensor has a shard of its own
};

// Writes a model folder as transformers saves it: config.json, tokenizer files, model.safetensors, or shards and their
// index. Of a Hugging Face base the texts are copied, with the dtype in config.json replaced and quantization_config
// left out; of a Llama GGUF base they are made from its metadata. `folder` exists and is empty; syncing it is up to the
// caller. RESOURCE_EXHAUSTED before anything is written when the disk is too full; UNIMPLEMENTED for GGUF bases of other
// architectures; CANCELLED.
absl::Status WriteHfFolder(const MergedWeights& weights, const HfFolderOptions& options, const std::string& folder,
                           const Progress& progress);

}  // namespace finetuned::exports
