#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/row_schema.h"

namespace finetuned::data {

// A row as the text that is tokenized once, and what of it trains.
struct RowText {
  std::string text;
  std::vector<text::ByteRange> trained;  // sorted, disjoint
  std::vector<text::ByteRange> literal;  // no control tokens here; sorted, disjoint
  bool add_special_tokens = false;       // chat templates write their own
  bool append_eos = false;               // unless the last token is one already
};

// Turns the checked rows of one file into text. Const and thread safe after Create.
//
// * messages, conversations: rendered once with the chat template; what trains comes from its
//   generation spans.
// * prompt/completion of messages: rendered once as prompt + completion; the completion begins
// where
//   this text leaves that of the prompt alone with its generation prompt.
// * prompt/completion of strings: the two joined; control tokens spelt in them are recognised, as
// TRL
//   does, because such rows are often whole prompts made by a program.
// * alpaca: with a chat template as prompt/completion of messages, user: instruction and, if there
// is
//   one, a blank line and the input; assistant: output. Without a template the Stanford Alpaca
//   prompt, with a line feed after "### Response:". Control tokens spelt in the fields stay text.
// * text: as it is, control tokens recognised.
class RowTexter {
 public:
  // INVALID_ARGUMENT when the loss asked for does not go with the format or the template, or when
  // conversations have no template.
  static absl::StatusOr<RowTexter> Create(const Schema& schema, const text::Tokenizer& tokenizer,
                                          const std::string& model_chat_template,
                                          const TokenizeOptions& options);

  // INVALID_ARGUMENT when the template refuses the row.
  absl::StatusOr<RowText> Render(const text::Json& row) const;

  // Prompt and answer of a row with a prompt; `answer` is the field that holds it: completion, chosen or rejected.
  // The answer trains. INVALID_ARGUMENT as Render.
  absl::StatusOr<RowText> RenderAnswer(const text::Json& row, const char* answer) const;

  // What the user should know about all rows (line 0), if anything.
  const std::optional<RowError>& warning() const { return warning_; }

 private:
  // Which part of a row trains.
  enum class Target { kAll, kCompletion, kSpans, kSpansOfCompletion };

  RowTexter(const Schema& schema, const TokenizeOptions& options)
      : schema_(schema), options_(options) {}
  absl::Status ChooseTarget();
  absl::Status ChooseTemplate(const std::string& model_chat_template);
  // The template with generation markers, or FAILED_PRECONDITION when there is none.
  absl::Status UseTrainingTemplate();

  absl::StatusOr<RowText> RenderConversation(const text::Json& row) const;
  absl::StatusOr<RowText> RenderPromptCompletion(text::Json prompt, const text::Json& completion,
                                                 const text::Json& row) const;
  RowText JoinStrings(const std::string& prompt, const std::string& completion) const;
  RowText AlpacaPrompt(const text::Json& row) const;

  Schema schema_;
  TokenizeOptions options_;
  Target target_ = Target::kAll;
  std::string template_source_;
  std::shared_ptr<const text::ChatTemplate> template_;  // null: rows are plain strings
  text::RenderInput every_input_;  // what all rows share: special tokens, the time
  std::optional<RowError> warning_;
};

}  // namespace finetuned::data
