#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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

// Everything of a GGUF file but the weights; see WriteGguf.
absl::StatusOr<GgufHead> BaseMetadata(const format::ModelSource& base, const std::string& base_path,
                                      const std::string& name, uint32_t file_type);

}  // namespace finetuned::exports
