#include "engine/data/sft_pipeline.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/row_file.h"
#include "engine/data/row_hash.h"

namespace finetuned::data {

absl::Status SftPipeline::ErrorAt(const RowError& error) const {
  std::string where = path_;
  if (error.line > 0) absl::StrAppend(&where, " line ", error.line);
  if (!error.field.empty()) absl::StrAppend(&where, ", field ", error.field);
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", error.message));
}

absl::Status SftPipeline::Start(const Line& first_row) {
  Findings findings(first_row.number);
  JsonRow row;
  if (!ParseLine(first_row, options_.limits, &row, &findings)) {
    return ErrorAt(findings.errors().front());
  }
  const std::optional<Schema> schema = DetectSchema(row.value, Method::kSft, &findings);
  if (!schema) return ErrorAt(findings.errors().front());
  schema_ = *schema;
  auto texter = RowTexter::Create(schema_, tokenizer_, model_chat_template_, options_);
  if (!texter.ok()) return texter.status();
  texter_.emplace(*std::move(texter));
  return absl::OkStatus();
}

absl::StatusOr<SftRow> SftPipeline::Process(const Line& line) const {
  Findings findings(line.number);
  JsonRow row;
  if (!ParseLine(line, options_.limits, &row, &findings)) {
    return ErrorAt(findings.errors().front());
  }
  CheckRow(row, schema_, RowCheckOptions(), &findings);
  if (!findings.ok()) return ErrorAt(findings.errors().front());
  SftRow out;
  out.hash = RowHash(CanonicalRow(row.value, schema_));
  auto text = texter_->Render(row.value);
  if (!text.ok()) {
    return absl::Status(
        text.status().code(),
        absl::StrCat(path_, " line ", line.number,
                     ": the chat template cannot render the row: ", text.status().message()));
  }
  out.text = *std::move(text);
  auto tokens = TokenizeRow(out.text, tokenizer_, options_);
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(), absl::StrCat(path_, " line ", line.number, ": ",
                                                             tokens.status().message()));
  }
  out.tokens = *std::move(tokens);
  return out;
}

}  // namespace finetuned::data
