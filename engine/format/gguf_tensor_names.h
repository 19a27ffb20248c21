#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "engine/format/model_config.h"

namespace finetuned::format {

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". A name that is not known is returned as it is.
std::string HfTensorName(absl::string_view gguf_name, const ModelConfig& config);

// The other way; empty when GGUF has no name for it.
std::string GgufTensorName(absl::string_view hf_name, const ModelConfig& config);

// Tables that llama.cpp stores beside the weights; their content is in the configuration.
bool IsGgufTable(absl::string_view gguf_name);

}  // namespace finetuned::format
