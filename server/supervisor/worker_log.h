#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "server/audit/rotating_file.h"

namespace finetuned::supervisor {

// What the worker prints: a file that is rotated by size, and its last lines. Not thread-safe.
class WorkerLog {
 public:
  // As RotatingFile.
  WorkerLog(std::string path, int64_t max_bytes, int files) : file_(std::move(path), max_bytes, files) {}

  // A failed write loses text, nothing else.
  void Append(std::string_view text);
  // At most 20 lines of at most 500 bytes.
  std::string Tail() const;
  void ForgetTail();

 private:
  void Remember(std::string_view text);

  RotatingFile file_;
  std::deque<std::string> lines_;
  std::string partial_;
};

}  // namespace finetuned::supervisor
