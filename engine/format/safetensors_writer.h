#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

struct SafetensorsOptions {
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  // fsync the file and, after the rename, its folder before Finish returns.
  bool sync = false;
};

// Streams tensors into a safetensors file. The bytes depend only on the tensors and the metadata
// and equal those of the reference implementation: tensors sorted by dtype (widest first), then by
// name; header padded with spaces so that data begins at a multiple of 8. Written to `path`.tmp and
// renamed by Finish; without Finish nothing remains. Not thread safe.
class SafetensorsWriter {
 public:
  struct Layout {
    std::string name;
    DType dtype = DType::kF32;  // not a quantized type
    std::vector<int64_t> shape;
  };

  // INVALID_ARGUMENT (bad name, duplicate, shape, dtype), or a status from errno.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<Layout> tensors, const SafetensorsOptions& options = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes (little endian) of a tensor: all at once or in pieces, tensors in any order.
  absl::Status Append(const std::string& tensor, std::span<const uint8_t> bytes);

  // FAILED_PRECONDITION when a tensor is incomplete.
  absl::Status Finish();

 private:
  struct Slot {
    int64_t position = 0;  // where the next byte goes, from the start of the file
    int64_t end = 0;
  };

  SafetensorsWriter(std::string path, bool sync) : path_(std::move(path)), sync_(sync) {}
  std::string TempPath() const { return path_ + ".tmp"; }
  absl::Status WriteAt(int64_t position, std::span<const uint8_t> bytes);

  const std::string path_;
  const bool sync_;
  int fd_ = -1;
  std::map<std::string, Slot> slots_;
};

}  // namespace finetuned::format
