#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/mapped_file.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// What the header of a safetensors file says, checked.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in file order
  std::vector<int64_t> offsets;     // of each tensor, from the start of the file
  std::map<std::string, std::string> metadata;
};

// Format: u64 header size N, N bytes of JSON, data. Stricter than the reference reader: N <= 100 MB
// and within the file, UTF-8 without duplicate keys, known dtypes, data_offsets that follow each
// other without gap or overlap and end with the file, byte counts that match the shape.
// INVALID_ARGUMENT names `name`, the tensor, what was expected and what was found.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(std::span<const uint8_t> file,
                                                   const std::string& name);

// One open safetensors file. Immutable, thread safe.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);

  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  // nullptr when there is no such tensor.
  const TensorInfo* Find(const std::string& name) const;
  // Little-endian bytes, valid as long as this object. NOT_FOUND.
  absl::StatusOr<std::span<const uint8_t>> Raw(const std::string& tensor) const;
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  SafetensorsFile(std::shared_ptr<const MappedFile> file, SafetensorsHeader header);

  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace finetuned::format
