#include "server/audit/rotating_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace finetuned {

RotatingFile::RotatingFile(std::string path, int64_t max_bytes, int files)
    : path_(std::move(path)), max_bytes_(max_bytes), files_(files) {
  Open();
}

RotatingFile::~RotatingFile() {
  if (fd_ >= 0) close(fd_);
}

void RotatingFile::Open() {
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  struct stat info = {};
  size_ = fd_ >= 0 && fstat(fd_, &info) == 0 ? info.st_size : 0;
}

void RotatingFile::Rotate() {
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

bool RotatingFile::Append(std::string_view text) {
  if (size_ + static_cast<int64_t>(text.size()) > max_bytes_ && size_ > 0) Rotate();
  if (fd_ < 0) Open();
  if (fd_ < 0) return false;
  const ssize_t written = write(fd_, text.data(), text.size());
  if (written > 0) size_ += written;
  return written == static_cast<ssize_t>(text.size());
}

}  // namespace finetuned
