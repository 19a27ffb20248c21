#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/model_config.h"
#include "engine/text/tokenizer.h"

namespace finetuned::format {

// ModelConfig from the metadata and tensors of a GGUF file of a supported family (families/families.cc). `file` is the
// mapped file `gguf` was parsed from; `name` names it in messages. INVALID_ARGUMENT, or UNIMPLEMENTED (other
// architectures, experts, yarn).
absl::StatusOr<ModelConfig> GgufConfig(const GgufLayout& gguf, std::span<const uint8_t> file,
                                       const std::string& name);

// general.architecture of this family's GGUF files; empty when there are none.
std::string GgufArchitecture(const ModelConfig& config);

// Whether rows of q and k are in llama.cpp's order in GGUF files of this family.
bool GgufInterleavesRope(const ModelConfig& config);

// The keys tokenizer.ggml.*. INVALID_ARGUMENT naming the key; FAILED_PRECONDITION when the file has
// no vocabulary.
absl::StatusOr<text::GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata,
                                                        const std::string& name);

}  // namespace finetuned::format
