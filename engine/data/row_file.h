#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/findings.h"
#include "engine/data/json_row.h"
#include "engine/data/line_reader.h"

namespace finetuned::data {

// The rows of a JSONL file: its lines without the blank ones, and what is wrong with the file as a
// whole. One thread.
class RowFile {
 public:
  // Status as LineReader::Open.
  static absl::StatusOr<std::unique_ptr<RowFile>> Open(const std::string& path,
                                                       const ReadLimits& limits, bool hash);

  // The next line that is not blank. False at the end, or when file_error() says why the rest of
  // the file is not read: it is no UTF-8 text, one JSON array, without rows, or has too many.
  absl::StatusOr<bool> Next(Line* line);
  const std::optional<RowError>& file_error() const { return file_error_; }
  LineReader& reader() { return *reader_; }

 private:
  RowFile(std::unique_ptr<LineReader> reader, const ReadLimits& limits);

  std::unique_ptr<LineReader> reader_;
  ReadLimits limits_;
  int64_t rows_ = 0;
  std::optional<RowError> file_error_;
};

// INVALID_ARGUMENT "PATH line N, field F: message".
absl::Status ErrorAt(const std::string& path, const RowError& error);

// Parses one line of a RowFile: length limit, UTF-8, JSON. False after adding an error.
bool ParseLine(const Line& line, const ReadLimits& limits, JsonRow* row, Findings* findings);

}  // namespace finetuned::data
