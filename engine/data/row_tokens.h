#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/data/row_text.h"

namespace finetuned::data {

// A row after tokenization and truncation.
struct RowTokens {
  std::vector<text::Token> tokens;
  std::vector<uint8_t> trained;  // one per token
  bool truncated = false;
  std::vector<int32_t> cut;  // TokenizedRow::cut
  int64_t full_length = 0;   // tokens before truncation
  std::string drop_reason;   // empty: the row is kept
  std::string drop_message;  // one sentence with the numbers
};

// Tokenizes the text once. A token trains if its bytes overlap a trained range, so a token across
// the seam of prompt and completion trains. (TRL trains from the first token in which the tokenized
// prompt and the tokenized row differ: the same but for tokenizers that split the end of the prompt
// otherwise once the completion follows; there TRL also trains on whole tokens of the prompt.) An
// appended EOS trains if the end of the text does.
//
// Reasons to drop a row: PROMPT_TOO_LONG (truncation left no token to train on), NO_TRAINED_TOKENS.
// The first token of a row is never a target.
absl::StatusOr<RowTokens> TokenizeRow(const RowText& row, const text::Tokenizer& tokenizer,
                                      const TokenizeOptions& options);

}  // namespace finetuned::data
