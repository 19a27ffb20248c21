#include "engine/export/merged_weights.h"

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace finetuned::exports {

absl::StatusOr<std::vector<float>> MergedWeights::Read(const format::TensorInfo& tensor) const {
  const absl::StatusOr<int64_t> count = format::ElementCount(tensor.shape);
  if (!count.ok()) return count.status();
  std::vector<float> numbers(*count);
  absl::Status s = base_->ReadF32(tensor, numbers);
  if (s.ok() && adapter_ != nullptr) s = adapter_->MergeInto(tensor.name, numbers);
  if (!s.ok()) return s;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (!std::isfinite(numbers[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(base_name_, ": tensor ", tensor.name, ": expected finite numbers, found ", numbers[i], " at ", i));
    }
  }
  return numbers;
}

absl::Status CheckFreeSpace(const std::string& folder, int64_t bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot see how much of the disk is free: ", error.message()));
  const int64_t wanted = bytes + bytes / 10;
  if (static_cast<int64_t>(space.available) >= wanted) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the export takes ", bytes, " bytes, and a tenth more must be free: ",
                                                   "the disk has ", space.available,
                                                   " bytes left; free some, or choose a smaller quantization"));
}

absl::Status Report(const Progress& progress, int64_t done, int64_t total) {
  if (progress == nullptr || progress(done, total)) return absl::OkStatus();
  return absl::CancelledError("the export was cancelled");
}

}  // namespace finetuned::exports
