#include "engine/data/line_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/format/sha256.h"

namespace finetuned::data {
namespace {

constexpr size_t kBufferBytes = 256 << 10;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

struct LineReader::Impl {
  std::string path;
  Options options;
  int fd = -1;
  format::Sha256 digest;

  ~Impl() {
    if (fd >= 0) close(fd);
  }
};

LineReader::LineReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LineReader::~LineReader() = default;

absl::StatusOr<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path,
                                                             const Options& options) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->options = options;
  impl->fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (impl->fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open dataset ", path));
  }
  struct stat info;
  if (fstat(impl->fd, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine dataset ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("dataset ", path, " is not a file; name one JSONL file"));
  }
  std::unique_ptr<LineReader> reader(new LineReader(std::move(impl)));
  if (absl::Status status = reader->Fill(); !status.ok()) return status;
  reader->head_ = reader->buffer_.substr(0, 64);
  if (std::string_view(reader->buffer_).substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    reader->position_ = kByteOrderMark.size();
  }
  return reader;
}

absl::Status LineReader::Fill() {
  buffer_.resize(kBufferBytes);
  position_ = 0;
  ssize_t got;
  do {
    got = read(impl_->fd, buffer_.data(), buffer_.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    const int error = errno;
    buffer_.clear();
    return absl::DataLossError(
        absl::StrCat("cannot read dataset ", impl_->path, ": ", strerror(error)));
  }
  buffer_.resize(static_cast<size_t>(got));
  at_end_ = got == 0;
  bytes_read_ += got;
  if (impl_->options.hash) impl_->digest.Update(buffer_);
  return absl::OkStatus();
}

absl::Status LineReader::CollectLine(int64_t* total) {
  // One byte above the limit is kept: the CR of a line that is exactly as long as allowed.
  const size_t limit = static_cast<size_t>(impl_->options.max_line_bytes) + 1;
  while (true) {
    const std::string_view rest = std::string_view(buffer_).substr(position_);
    const size_t end = rest.find('\n');
    const std::string_view part = rest.substr(0, end);
    *total += static_cast<int64_t>(part.size());
    line_.append(part.substr(0, limit - std::min(limit, line_.size())));
    if (end != std::string_view::npos) {
      position_ += end + 1;
      return absl::OkStatus();
    }
    if (absl::Status status = Fill(); !status.ok()) return status;
    if (at_end_) return absl::OkStatus();
  }
}

absl::StatusOr<bool> LineReader::Next(Line* line) {
  if (position_ == buffer_.size() && !at_end_) {
    if (absl::Status status = Fill(); !status.ok()) return status;
  }
  if (at_end_) return false;
  line->number = ++line_number_;
  line->offset = bytes_read_ - static_cast<int64_t>(buffer_.size() - position_);
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  const size_t end = rest.find('\n');
  int64_t total = 0;
  if (end != std::string_view::npos) {  // the usual case: no copy
    line->text = rest.substr(0, end);
    total = static_cast<int64_t>(end);
    position_ += end + 1;
  } else {
    line_.clear();
    if (absl::Status status = CollectLine(&total); !status.ok()) return status;
    line->text = line_;
  }
  const bool whole = total == static_cast<int64_t>(line->text.size());
  if (whole && !line->text.empty() && line->text.back() == '\r') {
    line->text.remove_suffix(1);
    --total;
  }
  line->bytes = total;
  line->too_long = total > impl_->options.max_line_bytes;
  return true;
}

absl::Status LineReader::Drain() {
  while (!at_end_) {
    if (absl::Status status = Fill(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string LineReader::Sha256Hex() { return impl_->digest.FinishHex(); }

}  // namespace finetuned::data
