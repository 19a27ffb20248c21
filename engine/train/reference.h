#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/preference/document_sums.h"
#include "engine/train/method.h"

namespace finetuned::train {

// What the frozen reference says of rows: sums over the targets of a document of its log probabilities. Computed beside
// the policy, or once for all rows before training and kept (reference_file.h).
class Reference {
 public:
  // float32 [M]: weights of the targets of a batch; undefined: all are 1.
  using Weights = std::function<at::Tensor(const data::PackedBatch&)>;

  // inputs must outlive this. precompute: once.
  Reference(const MethodInputs* inputs, bool precompute, Weights weights = nullptr);

  // Before the first step. Reads them, or computes and keeps them.
  absl::Status Prepare();
  // Whether a step needs no pass of the reference.
  bool precomputed() const { return precompute_; }

  // float64 [N]. `dataset`: whose rows the batch holds.
  at::Tensor Sums(const data::TokenizedDataset& dataset, const data::PackedBatch& batch,
                  const model::DeviceBatch& on_device, const preference::TargetGroups& groups);

 private:
  absl::Status Precompute(const data::TokenizedDataset& dataset, const std::string& name);
  at::Tensor Compute(const data::PackedBatch& batch, const model::DeviceBatch& on_device,
                     const preference::TargetGroups& groups);

  const MethodInputs& in_;
  const bool precompute_;
  const Weights weights_;
  std::map<const data::TokenizedDataset*, std::vector<double>> tables_;  // by row
};

}  // namespace finetuned::train
