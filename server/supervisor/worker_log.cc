#include "server/supervisor/worker_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::supervisor {
namespace {

constexpr size_t kTailLines = 20;
constexpr size_t kLineBytes = 500;

}  // namespace

WorkerLog::WorkerLog(std::string path, int64_t max_bytes, int files)
    : path_(std::move(path)), max_bytes_(max_bytes), files_(files) {
  Open();
}

WorkerLog::~WorkerLog() {
  if (fd_ >= 0) close(fd_);
}

void WorkerLog::Open() {
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  struct stat info = {};
  size_ = fd_ >= 0 && fstat(fd_, &info) == 0 ? info.st_size : 0;
}

void WorkerLog::Rotate() {
  if (fd_ >= 0) close(fd_);
  for (int i = files_; i > 1; --i) {
    std::rename(absl::StrCat(path_, ".", i - 1).c_str(), absl::StrCat(path_, ".", i).c_str());
  }
  if (files_ > 0) {
    std::rename(path_.c_str(), absl::StrCat(path_, ".1").c_str());
  } else {
    unlink(path_.c_str());
  }
  Open();
}

void WorkerLog::Append(std::string_view text) {
  Remember(text);
  if (size_ + static_cast<int64_t>(text.size()) > max_bytes_ && size_ > 0) Rotate();
  if (fd_ < 0) return;
  const ssize_t written = write(fd_, text.data(), text.size());
  if (written > 0) size_ += written;
}

void WorkerLog::Remember(std::string_view text) {
  for (const char c : text) {
    if (c != '\n') {
      if (partial_.size() < kLineBytes) partial_ += c;
      continue;
    }
    if (!partial_.empty()) lines_.push_back(std::move(partial_));
    partial_.clear();
    if (lines_.size() > kTailLines) lines_.pop_front();
  }
}

std::string WorkerLog::Tail() const {
  std::string tail = absl::StrJoin(lines_, "\n");
  if (!partial_.empty()) absl::StrAppend(&tail, tail.empty() ? "" : "\n", partial_);
  return tail;
}

void WorkerLog::ForgetTail() {
  lines_.clear();
  partial_.clear();
}

}  // namespace finetuned::supervisor
