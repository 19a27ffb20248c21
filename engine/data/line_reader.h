#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace finetuned::data {

// One physical line.
struct Line {
  int64_t number = 0;     // from 1
  int64_t offset = 0;     // of its first byte in the file
  std::string_view text;  // without its end (LF or CRLF); valid until the next call of Next
  int64_t bytes = 0;      // full length; larger than text.size() when the line is too long
  bool too_long = false;  // longer than the limit: text holds only its beginning
};

// Reads a file line by line. Lines end at LF only: U+2028, U+0085 and a lone CR are text. A UTF-8
// byte order mark before the first line is skipped. Holds one buffer of 256 KiB and, for a line
// that crosses it, the line up to the limit, however long the line really is. One thread.
class LineReader {
 public:
  struct Options {
    int64_t max_line_bytes = 8 << 20;
    bool hash = false;  // compute sha256 on the way
  };

  // NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT for something that is not a file.
  static absl::StatusOr<std::unique_ptr<LineReader>> Open(const std::string& path,
                                                          const Options& options);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // False at the end of the file. DATA_LOSS when the disk fails.
  absl::StatusOr<bool> Next(Line* line);
  // Reads what is left, for size and hash.
  absl::Status Drain();

  // The first bytes of the file (at most 64): for telling other formats by their signature.
  const std::string& head() const { return head_; }
  int64_t bytes_read() const { return bytes_read_; }
  // Hex, of all bytes read so far. REQUIRES: options.hash; call once, after the end.
  std::string Sha256Hex();

 private:
  struct Impl;
  explicit LineReader(std::unique_ptr<Impl> impl);
  absl::Status Fill();
  // Appends the rest of the current line to line_ up to the limit and counts the rest.
  absl::Status CollectLine(int64_t* total);

  std::unique_ptr<Impl> impl_;
  std::string head_;
  std::string buffer_;
  size_t position_ = 0;  // in buffer_
  bool at_end_ = false;
  std::string line_;
  int64_t line_number_ = 0;
  int64_t bytes_read_ = 0;
};

}  // namespace finetuned::data
