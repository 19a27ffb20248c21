#include "engine/data/prompts.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/conversation.h"
#include "engine/data/row_file.h"
#include "engine/data/row_schema.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::Json;

// The steps from one line to its prompt.
class PromptReader {
 public:
  PromptReader(const std::string& path, const text::Tokenizer& tokenizer, const PromptOptions& options)
      : path_(path), tokenizer_(tokenizer), options_(options) {}

  // From the first row: what the rows are, and the template they need.
  absl::Status Start(const Line& line, const std::string& model_chat_template) {
    auto row = Parse(line);
    if (!row.ok()) return row.status();
    Findings findings(line.number);
    const std::optional<Schema> schema = DetectSchema(row->value, Method::kGrpo, &findings);
    if (!schema) return ErrorAt(path_, findings.errors().front());
    schema_ = *schema;
    const std::string& source =
        options_.chat_template.empty() ? model_chat_template : options_.chat_template;
    const bool raw = schema_.format == Format::kPrompt && !schema_.conversational && options_.system_prompt.empty();
    if (raw) return absl::OkStatus();
    if (source.empty()) {
      if (!schema_.conversational && options_.system_prompt.empty()) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", schema_.conversational ? "the prompts are conversations" : "there is a system_prompt",
                       ", but the model has no chat template; set chat_template in the job"));
    }
    auto parsed = ParseTemplate(source);
    if (!parsed.ok()) return parsed.status();
    template_ = *std::move(parsed);
    return absl::OkStatus();
  }

  absl::StatusOr<Prompt> Read(const Line& line) const {
    auto row = Parse(line);
    if (!row.ok()) return row.status();
    Findings findings(line.number);
    CheckRow(*row, schema_, RowCheckOptions(), &findings);
    if (!findings.ok()) return ErrorAt(path_, findings.errors().front());
    Prompt out;
    out.line = line.number;
    for (const auto& [name, value] : row->value.items()) {
      out.columns[name] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    for (const auto& [column, reader] : options_.required_columns) {
      if (out.columns.contains(column)) continue;
      return ErrorAt(path_, {line.number, column, "MISSING_FIELD",
                             absl::StrCat("is missing; the reward ", reader, " reads it")});
    }
    const Json& prompt = row->value.at(schema_.format == Format::kQuestionAnswer ? "question" : "prompt");
    out.json = prompt.dump();
    if (absl::Status s = Tokenize(prompt, row->value, line, &out); !s.ok()) return s;
    return out;
  }

 private:
  // All columns, not only those that formats know.
  absl::StatusOr<JsonRow> Parse(const Line& line) const {
    Findings findings(line.number);
    JsonRow row;
    if (ParseLine(line, options_.limits, &row, &findings)) {
      row = {};
      JsonLimits limits;
      limits.max_depth = options_.limits.max_depth;
      const auto error = ParseJsonRow(line.text, limits, [](std::string_view) { return true; }, &row);
      if (!error) return row;
      findings.Error(error->field, error->reason, error->message);
    }
    return ErrorAt(path_, findings.errors().front());
  }

  Json Conversation(const Json& prompt) const {
    Json messages = prompt.is_string() ? Json::array({ChatMessage("user", prompt.get<std::string>())})
                                       : NormalizeMessages(prompt);
    const bool has_system = !messages.empty() && messages[0].value("role", "") == "system";
    if (!options_.system_prompt.empty() && !has_system) {
      messages.insert(messages.begin(), ChatMessage("system", options_.system_prompt));
    }
    return messages;
  }

  absl::Status Tokenize(const Json& prompt, const Json& row, const Line& line, Prompt* out) const {
    text::EncodeOptions encode;
    std::vector<text::ByteRange> literal;
    if (template_ == nullptr) {
      out->text = prompt.get<std::string>();
      encode.add_special_tokens = true;
    } else {
      auto rendered = Render(prompt, row);
      if (!rendered.ok()) {
        return absl::Status(rendered.status().code(),
                            absl::StrCat(path_, " line ", line.number,
                                         ": the chat template cannot render the prompt: ",
                                         rendered.status().message()));
      }
      out->text = std::move(rendered->text);
      literal = std::move(rendered->from_user);
      encode.literal = literal;
    }
    auto tokens = tokenizer_.Encode(out->text, encode);
    if (!tokens.ok()) return tokens.status();
    for (const text::Token& token : *tokens) out->ids.push_back(token.id);
    return absl::OkStatus();
  }

  absl::StatusOr<text::Rendered> Render(const Json& prompt, const Json& row) const {
    text::RenderInput every_row;
    every_row.now_unix_seconds = options_.now_unix_seconds;
    text::SetSpecialTokens(tokenizer_, &every_row);
    auto rendered = RenderMessages(*template_, std::move(every_row), Conversation(prompt), row, /*generation_prompt=*/true);
    if (!rendered.ok()) return rendered;
    std::sort(rendered->from_user.begin(), rendered->from_user.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    return rendered;
  }

  const std::string& path_;
  const text::Tokenizer& tokenizer_;
  const PromptOptions& options_;
  Schema schema_;
  std::shared_ptr<const text::ChatTemplate> template_;  // null: the prompt as it is
};

}  // namespace

absl::StatusOr<PromptSet> LoadPrompts(const std::string& path, const text::Tokenizer& tokenizer,
                                      const std::string& model_chat_template, const PromptOptions& options) {
  auto file = RowFile::Open(path, options.limits, /*hash=*/false);
  if (!file.ok()) return file.status();
  PromptReader reader(path, tokenizer, options);
  PromptSet out;
  bool started = false;
  Line line;
  for (int64_t rows = 0; options.max_rows == 0 || rows < options.max_rows; ++rows) {
    absl::StatusOr<bool> more = (*file)->Next(&line);
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (!started) {
      if (absl::Status s = reader.Start(line, model_chat_template); !s.ok()) return s;
      started = true;
    }
    absl::StatusOr<Prompt> prompt = reader.Read(line);
    if (!prompt.ok()) return prompt.status();
    const int64_t tokens = static_cast<int64_t>(prompt->ids.size());
    if (tokens == 0 || tokens > options.max_tokens) {
      ++out.stats.dropped_rows;
      ++out.stats.dropped_by_reason["PROMPT_TOO_LONG"];
      if (static_cast<int>(out.warnings.size()) < options.limits.max_errors) {
        out.warnings.push_back({line.number, "", "PROMPT_TOO_LONG",
                                absl::StrCat("the prompt has ", tokens, " tokens; ", options.max_tokens,
                                             " are left beside the completion; the row is left out")});
      }
      continue;
    }
    out.stats.tokens += tokens;
    out.stats.max_tokens = std::max(out.stats.max_tokens, tokens);
    out.prompts.push_back(*std::move(prompt));
  }
  if ((*file)->file_error()) return ErrorAt(path, *(*file)->file_error());
  out.stats.rows = static_cast<int64_t>(out.prompts.size());
  if (out.prompts.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no prompt has between 1 and ", options.max_tokens,
                                                   " tokens; raise schedule.max_seq_length or lower "
                                                   "grpo.max_completion_tokens"));
  }
  return out;
}

}  // namespace finetuned::data
