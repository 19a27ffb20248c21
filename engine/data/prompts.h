#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"

namespace finetuned::data {

// A row of a GRPO file: what the model answers, and what its answers are judged by.
struct Prompt {
  std::vector<int32_t> ids;                    // ends where the answer begins
  std::string text;                            // what the ids were made of
  std::string json;                            // the row's prompt or question: a JSON string or message list
  std::map<std::string, std::string> columns;  // every field of the row; what is no string as JSON
  int64_t line = 0;
};

struct PromptOptions {
  int64_t max_tokens = 512;   // longer prompts are left out
  std::string chat_template;  // overrides the model's when not empty
  std::string system_prompt;
  int64_t now_unix_seconds = 0;  // as TokenizeOptions
  // Columns that every row must have, with who reads them.
  std::map<std::string, std::string> required_columns;
  int64_t max_rows = 0;       // of the file's beginning; 0: all
  ReadLimits limits;
};

struct PromptSet {
  std::vector<Prompt> prompts;     // file order, not empty
  DatasetStats stats;              // rows, tokens, max_tokens, dropped_rows
  std::vector<RowError> warnings;  // prompts that were left out
};

// Reads a file of format question_answer or prompt.
// * question: the user's message of a conversation, behind system_prompt if there is one; rendered with the
//   chat template up to where the assistant speaks. Without a template the question as it is.
// * prompt, a list of messages: rendered the same way. system_prompt is put first unless there is one.
// * prompt, a string: continued as it is, as TRL does; control tokens spelt in it are recognised. With
//   system_prompt it is a question.
// INVALID_ARGUMENT "FILE line N, field F: ..." for the first bad row, a missing column, or when no prompt
// is short enough.
absl::StatusOr<PromptSet> LoadPrompts(const std::string& path, const text::Tokenizer& tokenizer,
                                      const std::string& model_chat_template,
                                      const PromptOptions& options);

}  // namespace finetuned::data
