#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/tensor_info.h"

namespace finetuned::format {

// Metadata of a GGUF file to be written, in the order of the calls. Keys are not checked for duplicates.
class GgufMetadataBuilder {
 public:
  void U32(absl::string_view key, uint32_t value);
  void I32(absl::string_view key, int32_t value);
  void F32(absl::string_view key, float value);
  void Bool(absl::string_view key, bool value);
  void String(absl::string_view key, absl::string_view value);
  void Strings(absl::string_view key, const std::vector<std::string>& values);
  void I32s(absl::string_view key, std::span<const int32_t> values);
  void F32s(absl::string_view key, std::span<const float> values);
  // A value of another file as it is.
  void Copy(absl::string_view key, const GgufValue& value);

  const std::string& bytes() const { return bytes_; }
  uint64_t count() const { return count_; }

 private:
  void Head(absl::string_view key, GgufType type);
  void ArrayHead(absl::string_view key, GgufType element, uint64_t count);

  std::string bytes_;
  uint64_t count_ = 0;
};

// Streams tensors into a GGUF file of version 3, little endian, alignment 32. The bytes depend only on metadata and
// tensors. Written to `path`.tmp and renamed by Finish; without Finish nothing remains. Not thread safe.
class GgufWriter {
 public:
  struct Layout {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;  // row-major; stored reversed
  };

  // Bytes the file will have. INVALID_ARGUMENT: a shape does not fit its encoding.
  static absl::StatusOr<int64_t> FileBytes(const GgufMetadataBuilder& metadata, const std::vector<Layout>& tensors);

  // INVALID_ARGUMENT (duplicate name, shape), or a status from errno.
  static absl::StatusOr<std::unique_ptr<GgufWriter>> Create(const std::string& path,
                                                            const GgufMetadataBuilder& metadata,
                                                            std::vector<Layout> tensors);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  // The whole next tensor, in the order of Create. INVALID_ARGUMENT for another name or number of bytes.
  absl::Status Append(const std::string& tensor, std::span<const uint8_t> bytes);

  // FAILED_PRECONDITION when tensors are missing.
  absl::Status Finish();

 private:
  GgufWriter(std::string path, std::vector<Layout> tensors) : path_(std::move(path)), tensors_(std::move(tensors)) {}
  absl::Status Write(absl::string_view bytes);
  absl::Status Pad();

  const std::string path_;
  const std::vector<Layout> tensors_;
  size_t next_ = 0;
  int64_t position_ = 0;
  int fd_ = -1;
};

}  // namespace finetuned::format
