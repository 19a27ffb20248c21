#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace finetuned::data {

enum class Method { kSft, kDpo, kKto, kGrpo };

// One finding about one line of a JSONL file. Lines count from 1 and are physical lines.
struct RowError {
  int64_t line = 0;     // 0: the whole file
  std::string field;    // JSON path, e.g. "messages[1].role"; empty when not about one field
  std::string reason;   // stable upper-case code, e.g. "MISSING_FIELD", "INVALID_UTF8"
  std::string message;  // one sentence: what is wrong, what was found, what is expected
};

struct ReadLimits {
  int64_t max_line_bytes = 8 << 20;
  int64_t max_rows = 50'000'000;
  int max_depth = 512;
  int max_errors = 20;               // errors and warnings kept with text; the rest is counted
  int64_t long_text_words = 32'768;  // warn about a text with more words
};

// Result of the streaming pass over a file that needs no tokenizer.
struct ValidationReport {
  bool ok = false;     // no errors
  std::string format;  // "messages", "conversations", "prompt_completion", "alpaca",
                       // "text", "preference", "implicit_preference", "unpaired_preference",
                       // "question_answer", "prompt"; empty when not found out
  int64_t rows = 0;    // good rows
  int64_t size_bytes = 0;
  std::string sha256;              // hex, of the file
  int64_t duplicate_rows = 0;      // good rows equal to an earlier one in the fields of the format
  std::vector<RowError> errors;    // at most max_errors
  std::vector<RowError> warnings;  // at most max_errors
  int64_t error_count = 0;
  int64_t warning_count = 0;
};

// Reads the file once, line by line, with memory bounded by the longest line. NOT_FOUND /
// PERMISSION for the file itself; everything about its content is in the report.
absl::StatusOr<ValidationReport> ValidateFile(const std::string& path, Method method,
                                              const ReadLimits& limits = {});

enum class Truncation { kKeepStart, kKeepEnd };

// How rows become tokens.
struct TokenizeOptions {
  Method method = Method::kSft;  // kSft, kDpo or kKto
  int64_t max_seq_length = 1024;
  Truncation truncation = Truncation::kKeepStart;
  // Which tokens train. kAuto: completion for prompt/completion and alpaca rows, assistant turns
  // for conversations whose template marks them, all tokens for plain text.
  enum class Loss { kAuto, kAllTokens, kCompletionOnly, kAssistantOnly } loss = Loss::kAuto;
  bool append_eos = true;     // to text and completion rows that do not end with it
  std::string chat_template;  // overrides the model's when not empty
  // What a template that prints the date sees (UTC). Fixed for a job, so that resuming it tomorrow
  // gives the same tokens.
  int64_t now_unix_seconds = 0;
  ReadLimits limits;
};

struct TokenizedRow {
  std::vector<int32_t> input_ids;
  std::vector<uint8_t> trained;  // same length; 1 = the token is a training target
  int64_t line = 0;              // physical line in the file
  bool desirable = true;         // DPO: the chosen answer; KTO: the label, of pairs the chosen answer
  // KTO: the tokens that truncation cut off the end, at most max_seq_length: another prompt may leave them room.
  std::vector<int32_t> cut;
};

struct DatasetStats {
  int64_t rows = 0;  // rows of the file that are kept
  int64_t tokens = 0;
  int64_t trained_tokens = 0;  // targets after the shift: the first token of a row never counts
  int64_t max_tokens = 0, p50_tokens = 0, p95_tokens = 0;
  int64_t truncated_rows = 0;
  std::vector<int64_t> truncated_row_lines;  // the first 100
  int64_t dropped_rows = 0;
  std::map<std::string, int64_t> dropped_by_reason;  // PROMPT_TOO_LONG, NO_TRAINED_TOKENS
  int64_t duplicate_rows = 0;
  std::vector<int64_t> length_histogram;  // [i]: rows with length in (2^(i-1), 2^i]; [0]: length 1
};

struct TokenizedDataset {
  // File order; a row with chosen and rejected gives two, in this order. The lengths in stats are theirs.
  std::vector<TokenizedRow> rows;
  DatasetStats stats;
  // What tokenization itself found: dropped rows, a template without generation markers. At most
  // max_errors; the statistics count the rest. Those of ValidateFile are not repeated.
  std::vector<RowError> warnings;
};

// One row for people: the rendered text and, token by token, which parts train.
struct PreviewRow {
  int64_t line = 0;
  int64_t index = 0;           // of the row in the file, from 0
  std::string text;  // of the tokens kept
  // Text pieces, one per token; concatenated they give `text`. Each is valid UTF-8: the bytes of a
  // character shared by several tokens stand in the first, the others are empty. Tokens that stand
  // for no text of the row (BOS, appended EOS) show their name.
  std::vector<std::string> tokens;
  std::vector<uint8_t> trained;
  bool dropped = false;
  std::string drop_reason;
};

// Tokenizes a validated file. Rows are independent of each other, so the result does not depend
// on the number of threads. INVALID_ARGUMENT when the file is not valid (first error, with its
// line), when no row has a token to train on, or when assistant-only loss is asked of a template
// without generation markers (names the template and the ways out).
absl::StatusOr<TokenizedDataset> TokenizeFile(const std::string& path,
                                              const text::Tokenizer& tokenizer,
                                              const std::string& model_chat_template,
                                              const TokenizeOptions& options, int threads = 1);

// The rows first_row, first_row + 1, ... (from 0; blank lines do not count), at most max_rows.
// A row with two answers gives two previews, the chosen one first. Reads the file only as far as needed. INVALID_ARGUMENT as TokenizeFile for a bad row among them.
absl::StatusOr<std::vector<PreviewRow>> PreviewFile(const std::string& path,
                                                    const text::Tokenizer& tokenizer,
                                                    const std::string& model_chat_template,
                                                    const TokenizeOptions& options,
                                                    int64_t first_row, int max_rows);

}  // namespace finetuned::data
