#include "engine/export/gguf_names.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/export/gguf_model_keys.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_tensor_names.h"

namespace finetuned::exports {

absl::StatusOr<GgufNames> GgufNamesOf(const format::ModelSource& base) {
  const format::ModelConfig& config = base.config();
  GgufNames names;
  names.architecture = format::GgufArchitecture(config);
  if (absl::Status s = CheckGgufParts(config, names.architecture); !s.ok()) return s;
  names.interleaved_rope = format::GgufInterleavesRope(config);
  for (const format::TensorInfo& tensor : base.tensors()) {
    const std::string name = format::GgufTensorName(tensor.name, config);
    if (name.empty()) return absl::UnimplementedError(absl::StrCat("tensor ", tensor.name, " has no name in GGUF"));
    names.to_gguf[tensor.name] = name;
  }
  return names;
}

int64_t InterleavedHeads(const GgufNames& names, const format::ModelConfig& config, const std::string& hf_name) {
  if (!names.interleaved_rope) return 0;
  if (absl::StrContains(hf_name, ".q_proj.")) return config.num_attention_heads;
  if (absl::StrContains(hf_name, ".k_proj.")) return config.num_key_value_heads;
  return 0;
}

void InterleaveRows(int64_t heads, int64_t rows, std::vector<float>* numbers) {
  const int64_t columns = static_cast<int64_t>(numbers->size()) / rows, half = rows / heads / 2;
  std::vector<float> out(numbers->size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / (2 * half), pair = row % (2 * half) / 2, which = row % 2;
    const int64_t source = head * 2 * half + which * half + pair;
    std::copy_n(numbers->begin() + source * columns, columns, out.begin() + row * columns);
  }
  *numbers = std::move(out);
}

void ToGgufNumbers(const GgufNames& names, const format::ModelConfig& config, const std::string& hf_name, int64_t rows,
                   std::vector<float>* numbers) {
  const int64_t heads = InterleavedHeads(names, config, hf_name);
  if (heads > 0) InterleaveRows(heads, rows, numbers);
  if (config.norm_weight_plus_one && absl::EndsWith(hf_name, "norm.weight")) {
    for (float& x : *numbers) x += 1.0f;
  }
}

}  // namespace finetuned::exports
