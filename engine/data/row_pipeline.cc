#include "engine/data/row_pipeline.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/preference_prompt.h"
#include "engine/data/row_file.h"
#include "engine/data/row_hash.h"

namespace finetuned::data {
namespace {

// Both answers train from where the first of them begins: as TRL, whose prompt is what the tokens
// of the prompt and of both rows have in common.
void ShareFirstTarget(std::vector<uint8_t>* a, std::vector<uint8_t>* b) {
  const auto first = [](const std::vector<uint8_t>& trained) {
    return std::find(trained.begin(), trained.end(), 1) - trained.begin();
  };
  const auto begin = std::min(first(*a), first(*b));
  for (std::vector<uint8_t>* trained : {a, b}) {
    std::fill(trained->begin() + std::min<ptrdiff_t>(begin, trained->size()),
              trained->begin() + first(*trained), 1);
  }
}

}  // namespace

absl::Status RowPipeline::ErrorAt(const RowError& error) const { return data::ErrorAt(path_, error); }

absl::Status RowPipeline::Start(const Line& first_row) {
  Findings findings(first_row.number);
  JsonRow row;
  if (!ParseLine(first_row, options_.limits, &row, &findings)) {
    return ErrorAt(findings.errors().front());
  }
  const std::optional<Schema> schema = DetectSchema(row.value, options_.method, &findings);
  if (!schema) return ErrorAt(findings.errors().front());
  schema_ = *schema;
  auto texter = RowTexter::Create(schema_, tokenizer_, model_chat_template_, options_);
  if (!texter.ok()) return texter.status();
  texter_.emplace(*std::move(texter));
  return absl::OkStatus();
}

absl::StatusOr<Document> RowPipeline::MakeDocument(int64_t line, absl::StatusOr<RowText> text,
                                                   bool desirable) const {
  if (!text.ok()) {
    return absl::Status(
        text.status().code(),
        absl::StrCat(path_, " line ", line,
                     ": the chat template cannot render the row: ", text.status().message()));
  }
  Document out;
  out.text = *std::move(text);
  out.desirable = desirable;
  auto tokens = TokenizeRow(out.text, tokenizer_, options_);
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(),
                        absl::StrCat(path_, " line ", line, ": ", tokens.status().message()));
  }
  out.tokens = *std::move(tokens);
  return out;
}

absl::StatusOr<ProcessedRow> RowPipeline::Process(const Line& line) const {
  Findings findings(line.number);
  JsonRow row;
  if (!ParseLine(line, options_.limits, &row, &findings)) {
    return ErrorAt(findings.errors().front());
  }
  CheckRow(row, schema_, RowCheckOptions(), &findings);
  if (!findings.ok()) return ErrorAt(findings.errors().front());
  ProcessedRow out;
  out.hash = RowHash(CanonicalRow(row.value, schema_));
  if (!IsPaired(schema_.format)) {
    const bool desirable = schema_.format != Format::kUnpaired || row.value["label"].get<bool>();
    auto document = MakeDocument(line.number, texter_->Render(row.value), desirable);
    if (!document.ok()) return document.status();
    out.documents.push_back(*std::move(document));
    return out;
  }
  const text::Json pair =
      schema_.format == Format::kImplicitPreference ? WithExplicitPrompt(row.value) : row.value;
  for (const char* answer : {"chosen", "rejected"}) {
    auto document =
        MakeDocument(line.number, texter_->RenderAnswer(pair, answer), out.documents.empty());
    if (!document.ok()) return document.status();
    out.documents.push_back(*std::move(document));
  }
  ShareFirstTarget(&out.documents[0].tokens.trained, &out.documents[1].tokens.trained);
  return out;
}

}  // namespace finetuned::data
