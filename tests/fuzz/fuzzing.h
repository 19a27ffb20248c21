#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

// What the fuzz targets share. A target reads untrusted bytes as the program would; sanitizers find wrong memory
// accesses and undefined behaviour, Require wrong answers.
namespace finetuned::fuzz {

// Ends the program, which libFuzzer reports with the input, when a promise of the code is broken.
inline void Require(bool holds, std::string_view promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %.*s\n", static_cast<int>(promise.size()), promise.data());
  std::abort();
}

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The input's parts: texts separated by a zero byte; what is missing is empty.
inline std::pair<std::string_view, std::string_view> SplitAtZero(std::string_view text) {
  const size_t zero = text.find('\0');
  if (zero == std::string_view::npos) return {text, {}};
  return {text.substr(0, zero), text.substr(zero + 1)};
}

// A file in memory, for code that wants a path.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    Require(fd_ >= 0, "memfd_create works");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void Write(std::string_view text) {
    const bool written = ftruncate(fd_, 0) == 0 &&
                         pwrite(fd_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
    Require(written, "a memory file takes its bytes");
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

// A file of the repository.
inline std::string ReadRepositoryFile(const std::string& name) {
  const std::string path = std::string(FINETUNED_SOURCE_DIR) + "/" + name;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  Require(file != nullptr, path);
  std::string text;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
  std::fclose(file);
  return text;
}

}  // namespace finetuned::fuzz
