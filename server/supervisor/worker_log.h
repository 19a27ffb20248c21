#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace finetuned::supervisor {

// What the worker prints: a file that is rotated by size, and its last lines. Not thread-safe.
class WorkerLog {
 public:
  // Appends to `path`; at `max_bytes` it becomes path.1, and so on up to path.`files`.
  WorkerLog(std::string path, int64_t max_bytes, int files);
  ~WorkerLog();
  WorkerLog(const WorkerLog&) = delete;

  // A failed write loses text, nothing else.
  void Append(std::string_view text);
  // At most 20 lines of at most 500 bytes.
  std::string Tail() const;
  void ForgetTail();

 private:
  void Open();
  void Rotate();
  void Remember(std::string_view text);

  const std::string path_;
  const int64_t max_bytes_;
  const int files_;
  int fd_ = -1;
  int64_t size_ = 0;
  std::deque<std::string> lines_;
  std::string partial_;
};

}  // namespace finetuned::supervisor
