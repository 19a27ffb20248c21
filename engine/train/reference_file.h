// Log probabilities of the reference, kept for the runs of a state directory:
// state_dir/reference-NAME/log_probs.json
//   {"format": "finetuned.reference", "version": 1, "key": ReferenceKey, "log_probs": [one number
//   per row]}
// A file of another key is written anew.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/train/method.h"

namespace finetuned::train {

// Hash of all that the log probabilities depend on: base model and its number formats, start adapter, tokens,
// targets and ld_alpha.
std::string ReferenceKey(const MethodInputs& inputs, const data::TokenizedDataset& dataset);

class ReferenceFile {
 public:
  ReferenceFile(std::string state_dir, const std::string& name, std::string key);

  // Nothing when there is no file, or one of another key, size or version.
  std::optional<std::vector<double>> Read(size_t rows) const;
  // UNAVAILABLE when it cannot be written.
  absl::Status Write(const std::vector<double>& log_probs) const;

 private:
  const std::string state_dir_, folder_, key_;
};

}  // namespace finetuned::train
