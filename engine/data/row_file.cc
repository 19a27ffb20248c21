#include "engine/data/row_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/file_kind.h"
#include "engine/data/row_schema.h"
#include "engine/data/text_util.h"

namespace finetuned::data {

RowFile::RowFile(std::unique_ptr<LineReader> reader, const ReadLimits& limits)
    : reader_(std::move(reader)), limits_(limits), file_error_(WrongFileKind(reader_->head())) {}

absl::StatusOr<std::unique_ptr<RowFile>> RowFile::Open(const std::string& path,
                                                       const ReadLimits& limits, bool hash) {
  LineReader::Options options;
  options.max_line_bytes = limits.max_line_bytes;
  options.hash = hash;
  auto reader = LineReader::Open(path, options);
  if (!reader.ok()) return reader.status();
  return std::unique_ptr<RowFile>(new RowFile(*std::move(reader), limits));
}

absl::StatusOr<bool> RowFile::Next(Line* line) {
  if (file_error_) return false;
  do {
    absl::StatusOr<bool> more = reader_->Next(line);
    if (!more.ok()) return more.status();
    if (!*more) {
      if (rows_ == 0) {
        file_error_ = RowError{0, "", "NO_ROWS",
                               line->number == 0 ? "the file is empty"
                                                 : "the file has no rows: all its lines are blank"};
      }
      return false;
    }
  } while (!line->too_long && IsBlank(line->text));
  if (++rows_ > limits_.max_rows) {
    file_error_ = RowError{line->number, "", "TOO_MANY_ROWS",
                           absl::StrCat("the file has more than ", limits_.max_rows,
                                        " rows; split it or raise the limit")};
    return false;
  }
  if (rows_ == 1 && OpensJsonArray(line->text)) {
    file_error_ = RowError{line->number, "", "JSON_ARRAY_FILE",
                           "the file is a JSON array, but JSON lines are needed: one object a "
                           "line, without brackets and commas around them"};
    return false;
  }
  return true;
}

absl::Status ErrorAt(const std::string& path, const RowError& error) {
  std::string where = path;
  if (error.line > 0) absl::StrAppend(&where, " line ", error.line);
  if (!error.field.empty()) absl::StrAppend(&where, ", field ", error.field);
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", error.message));
}

bool ParseLine(const Line& line, const ReadLimits& limits, JsonRow* row, Findings* findings) {
  if (line.too_long) {
    findings->Error(
        "", "LINE_TOO_LONG",
        absl::StrCat("the line has ", line.bytes, " bytes; the limit is ", limits.max_line_bytes));
    return false;
  }
  if (const auto bad = FirstInvalidUtf8(line.text)) {
    findings->Error("", "INVALID_UTF8",
                    absl::StrCat("invalid UTF-8 at byte ", *bad + 1, " of the line (byte offset ",
                                 line.offset + static_cast<int64_t>(*bad),
                                 " of the file): ", Quoted(line.text.substr(*bad, 4))));
    return false;
  }
  JsonLimits json_limits;
  json_limits.max_depth = limits.max_depth;
  auto error = ParseJsonRow(line.text, json_limits, IsKnownField, row);
  if (!error) return true;
  findings->Error(std::move(error->field), std::move(error->reason), std::move(error->message));
  return false;
}

}  // namespace finetuned::data
