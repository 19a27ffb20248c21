#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace finetuned {

// A text file that only grows, and is rotated by size. Mode 0600. Not thread-safe.
class RotatingFile {
 public:
  // Appends to `path`; at `max_bytes` it becomes path.1, and so on up to path.`files`.
  RotatingFile(std::string path, int64_t max_bytes, int files);
  ~RotatingFile();
  RotatingFile(const RotatingFile&) = delete;
  RotatingFile& operator=(const RotatingFile&) = delete;

  // False when the text, or a part of it, is lost: disk full, no such folder.
  bool Append(std::string_view text);

 private:
  void Open();
  void Rotate();

  const std::string path_;
  const int64_t max_bytes_;
  const int files_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace finetuned
