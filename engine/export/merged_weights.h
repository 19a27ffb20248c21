#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/export/adapter_weights.h"
#include "engine/format/model_source.h"

namespace finetuned::exports {

// Told the bytes written so far and in all; false cancels.
using Progress = std::function<bool(int64_t done, int64_t total)>;

// A base with an adapter merged into it, one tensor at a time: memory of the largest tensor in float32.
class MergedWeights {
 public:
  // adapter null: the base as it is. `base_name`: what messages call its files.
  MergedWeights(std::shared_ptr<const format::ModelSource> base, std::string base_name,
                std::shared_ptr<const AdapterWeights> adapter)
      : base_(std::move(base)), base_name_(std::move(base_name)), adapter_(std::move(adapter)) {}

  const format::ModelSource& base() const { return *base_; }
  const AdapterWeights* adapter() const { return adapter_.get(); }

  // The merged tensor in float32, rows in Hugging Face's order. INVALID_ARGUMENT names file, tensor and element for
  // numbers that are not finite.
  absl::StatusOr<std::vector<float>> Read(const format::TensorInfo& tensor) const;

 private:
  const std::shared_ptr<const format::ModelSource> base_;
  const std::string base_name_;
  const std::shared_ptr<const AdapterWeights> adapter_;
};

// RESOURCE_EXHAUSTED with both numbers when the disk below `folder` has not `bytes` free, and a tenth more.
absl::Status CheckFreeSpace(const std::string& folder, int64_t bytes);

// CANCELLED when progress says so.
absl::Status Report(const Progress& progress, int64_t done, int64_t total);

}  // namespace finetuned::exports
