#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/format/gguf_writer.h"
#include "engine/format/model_source.h"

namespace finetuned::exports {

// A table beside the weights (rope_freqs.weight), F32.
struct ExtraTensor {
  std::string name;
  std::vector<float> numbers;
};

struct GgufHead {
  format::GgufMetadataBuilder metadata;
  std::vector<ExtraTensor> tensors;
};

// UNIMPLEMENTED when llama.cpp has no place in this architecture for a part of the model: biases, a head of its own, heads
// wider than the hidden size, norms. Source: load_arch_tensors of its src/models.
absl::Status CheckGgufParts(const format::ModelConfig& config, const std::string& architecture);

// Keys and tables that say what the model is, named as general.architecture. Source: set_gguf_parameters of llama.cpp's
// conversion.
void AddModelKeys(const format::ModelConfig& config, const std::string& architecture, GgufHead* head);

// Reads the keys as a loader does. UNIMPLEMENTED names what a loader would take for something else: a pattern of windows
// or a scale of scores that no key tells.
absl::Status CheckModelKeys(const format::ModelSource& base, const GgufHead& head);

}  // namespace finetuned::exports
