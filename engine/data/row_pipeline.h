#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/line_reader.h"
#include "engine/data/row_text.h"
#include "engine/data/row_tokens.h"

namespace finetuned::data {

// One text that a model reads: prompt and answer.
struct Document {
  RowText text;
  RowTokens tokens;
  bool desirable = true;  // TokenizedRow::desirable
};

// What became of one line.
struct ProcessedRow {
  // One; of a row with chosen and rejected two, in this order, with the same tokens before the
  // first that trains.
  std::vector<Document> documents;
  absl::uint128 hash = 0;  // of the row, for duplicates
};

// The steps from one line of a file to its tokens. The first good row, given to Start, settles
// the format; after that Process is const and may be called from several threads.
class RowPipeline {
 public:
  RowPipeline(std::string path, const text::Tokenizer& tokenizer, std::string model_chat_template,
              TokenizeOptions options)
      : path_(std::move(path)),
        tokenizer_(tokenizer),
        model_chat_template_(std::move(model_chat_template)),
        options_(std::move(options)) {}

  // INVALID_ARGUMENT with file and line for a bad row or a loss that does not fit.
  absl::Status Start(const Line& first_row);
  bool started() const { return texter_.has_value(); }

  // REQUIRES: started().
  absl::StatusOr<ProcessedRow> Process(const Line& line) const;

  // Something to tell about all rows; after Start.
  const std::optional<RowError>& warning() const { return texter_->warning(); }

  // INVALID_ARGUMENT "FILE line N, field F: message".
  absl::Status ErrorAt(const RowError& error) const;

 private:
  absl::StatusOr<Document> MakeDocument(int64_t line, absl::StatusOr<RowText> text,
                                        bool desirable) const;

  const std::string path_;
  const text::Tokenizer& tokenizer_;
  const std::string model_chat_template_;
  const TokenizeOptions options_;
  Schema schema_;
  std::optional<RowTexter> texter_;
};

}  // namespace finetuned::data
