#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/model_config.h"
#include "engine/text/tokenizer.h"

namespace finetuned::format {

// ModelConfig from the metadata and tensors of a GGUF file of a supported family (families/families.cc). `file` is the
// mapped file `gguf` was parsed from; `name` names it in messages. INVALID_ARGUMENT, or UNIMPLEMENTED (other
// architectures, experts, yarn).
absl::StatusOr<ModelConfig> GgufConfig(const GgufLayout& gguf, std::span<const uint8_t> file,
                                       const std::string& name);

// Whether rows of q and k are in llama.cpp's order in GGUF files of this family.
bool GgufInterleavesRope(const ModelConfig& config);

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". A name that is not known is
// returned as it is.
std::string HfTensorName(absl::string_view gguf_name, const ModelConfig& config);

// The keys tokenizer.ggml.*. INVALID_ARGUMENT naming the key; FAILED_PRECONDITION when the file has
// no vocabulary.
absl::StatusOr<text::GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata,
                                                        const std::string& name);

}  // namespace finetuned::format
