// Log probabilities of the reference, kept for every run with the same rows and base: reference_dir/KEY.json
//   {"format": "finetuned.reference", "version": 1, "log_probs": [one number per row]}
// KEY is the hash of all that they depend on. Written as .tmp, synced and renamed. Files that were not read for longest
// make room for new ones.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/train/method.h"

namespace finetuned::train {

inline constexpr int kReferenceFilesKept = 32;

class ReferenceFile {
 public:
  // Of the rows of a dataset, with the inputs' base, number formats and start adapter.
  ReferenceFile(const MethodInputs& inputs, const data::TokenizedDataset& dataset);

  // Nothing when there is no file, or one of another size or version.
  std::optional<std::vector<double>> Read(size_t rows) const;
  // UNAVAILABLE when it cannot be written.
  absl::Status Write(const std::vector<double>& log_probs) const;

 private:
  std::string folder_, path_;
};

}  // namespace finetuned::train
