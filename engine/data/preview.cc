#include <algorithm>
#include <string_view>
#include <utility>

#include "engine/data/dataset.h"
#include "engine/data/row_file.h"
#include "engine/data/row_pipeline.h"

namespace finetuned::data {
namespace {

// The first character border at or after `offset`.
size_t CharacterBorder(std::string_view text, size_t offset) {
  while (offset < text.size() && (static_cast<unsigned char>(text[offset]) & 0xC0) == 0x80)
    ++offset;
  return std::min(offset, text.size());
}

PreviewRow MakePreview(int64_t line, const Document& row, const text::Tokenizer& tokenizer) {
  PreviewRow preview;
  preview.line = line;
  preview.trained = row.tokens.trained;
  preview.drop_reason = row.tokens.drop_reason;
  preview.dropped = !preview.drop_reason.empty();
  const std::string_view text = row.text.text;
  const auto& tokens = row.tokens.tokens;
  size_t shown = tokens.empty() ? 0 : CharacterBorder(text, tokens.front().bytes.begin);
  for (const text::Token& token : tokens) {
    const bool special = token.id == tokenizer.bos() || token.id == tokenizer.eos();
    std::string piece;
    if (special && token.bytes.begin == token.bytes.end) {
      piece = tokenizer.IdToToken(token.id);
    } else if (const size_t end = CharacterBorder(text, token.bytes.end); end > shown) {
      piece = text.substr(shown, end - shown);
      shown = end;
    }
    preview.text += piece;
    preview.tokens.push_back(std::move(piece));
  }
  return preview;
}

}  // namespace

absl::StatusOr<std::vector<PreviewRow>> PreviewFile(const std::string& path,
                                                    const text::Tokenizer& tokenizer,
                                                    const std::string& model_chat_template,
                                                    const TokenizeOptions& options,
                                                    int64_t first_row, int max_rows) {
  auto file = RowFile::Open(path, options.limits, /*hash=*/false);
  if (!file.ok()) return file.status();
  RowPipeline pipeline(path, tokenizer, model_chat_template, options);
  std::vector<PreviewRow> previews;
  Line line;
  int shown = 0;
  for (int64_t row = 0; shown < max_rows; ++row) {
    absl::StatusOr<bool> more = (*file)->Next(&line);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (!pipeline.started()) {
      if (absl::Status status = pipeline.Start(line); !status.ok()) return status;
    }
    if (row < first_row) continue;
    absl::StatusOr<ProcessedRow> done = pipeline.Process(line);
    if (!done.ok()) return done.status();
    ++shown;
    for (const Document& document : done->documents) {
      previews.push_back(MakePreview(line.number, document, tokenizer));
      previews.back().index = row;
    }
  }
  if ((*file)->file_error()) return pipeline.ErrorAt(*(*file)->file_error());
  return previews;
}

}  // namespace finetuned::data
