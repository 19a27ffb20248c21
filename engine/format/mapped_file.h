#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace finetuned::format {

// The last two components of a path: what error messages call a file. Messages reach clients, which
// must not learn where the daemon keeps its files.
std::string DisplayName(const std::string& path);

// A regular file mapped read-only. Immutable, thread safe. The file must not shrink while mapped.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (not a regular file), or UNAVAILABLE.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& name() const { return name_; }  // DisplayName of the path

 private:
  MappedFile(std::string name, const uint8_t* data, size_t size)
      : name_(std::move(name)), data_(data), size_(size) {}

  std::string name_;
  const uint8_t* data_;
  size_t size_;
};

// The whole file as a string. Errors of MappedFile::Open, and RESOURCE_EXHAUSTED beyond max_bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

}  // namespace finetuned::format
