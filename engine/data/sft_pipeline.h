#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/numeric/int128.h"
#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/line_reader.h"
#include "engine/data/row_text.h"
#include "engine/data/row_tokens.h"

namespace finetuned::data {

// What became of one line.
struct SftRow {
  RowText text;
  RowTokens tokens;
  absl::uint128 hash = 0;  // of the row, for duplicates
};

// The steps from one line of a SFT file to its tokens. The first good row, given to Start, settles
// the format; after that Process is const and may be called from several threads.
class SftPipeline {
 public:
  SftPipeline(std::string path, const text::Tokenizer& tokenizer, std::string model_chat_template,
              TokenizeOptions options)
      : path_(std::move(path)),
        tokenizer_(tokenizer),
        model_chat_template_(std::move(model_chat_template)),
        options_(std::move(options)) {}

  // INVALID_ARGUMENT with file and line for a bad row or a loss that does not fit.
  absl::Status Start(const Line& first_row);
  bool started() const { return texter_.has_value(); }

  // REQUIRES: started().
  absl::StatusOr<SftRow> Process(const Line& line) const;

  // Something to tell about all rows; after Start.
  const std::optional<RowError>& warning() const { return texter_->warning(); }

  // INVALID_ARGUMENT "FILE line N, field F: message".
  absl::Status ErrorAt(const RowError& error) const;

 private:
  const std::string path_;
  const text::Tokenizer& tokenizer_;
  const std::string model_chat_template_;
  const TokenizeOptions options_;
  Schema schema_;
  std::optional<RowTexter> texter_;
};

}  // namespace finetuned::data
