#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/model_source.h"
#include "engine/format/safetensors_reader.h"

namespace finetuned::exports {

// A PEFT LoRA folder (adapter_config.json, adapter_model.safetensors) read without LibTorch, to be merged or written in
// another format. Immutable, thread safe. Source: peft 0.21, tuners/lora/layer.py (get_delta_weight, merge).
class AdapterWeights {
 public:
  struct Module {
    std::string a, b, magnitude;  // tensor names in the file; magnitude of DoRA, else empty
    int64_t rank = 0, in = 0, out = 0;
    double alpha = 0, scaling = 0;
  };

  // INVALID_ARGUMENT names file, tensor or key, expected and found: an adapter of another kind or of another base.
  static absl::StatusOr<std::shared_ptr<const AdapterWeights>> Open(const std::string& folder,
                                                                    const format::ModelSource& base);

  // Whether an adapter has an embedding or a head of its own. Errors of the file.
  static absl::StatusOr<bool> SavesEmbedding(const std::string& folder);

  // Linears by module name: "model.layers.0.self_attn.q_proj".
  const std::map<std::string, Module>& modules() const { return modules_; }
  // Names of base tensors that the adapter replaces (modules_to_save, trained biases).
  const std::map<std::string, std::string>& replaced() const { return replaced_; }

  // The tensor of the file as float32, row-major.
  absl::StatusOr<std::vector<float>> Read(const std::string& tensor) const;

  // Turns the base's tensor into the merged one: W + scaling * B A in float32, for DoRA its rows scaled to the
  // magnitudes, or what replaces it. Leaves tensors that the adapter does not touch. `weights` is row-major.
  absl::Status MergeInto(const std::string& tensor, std::span<float> weights) const;

 private:
  absl::Status Index(const std::string& path, const std::string& config_text, const format::ModelSource& base);

  std::shared_ptr<const format::SafetensorsFile> file_;
  std::map<std::string, Module> modules_;
  std::map<std::string, std::string> replaced_;
};

}  // namespace finetuned::exports
