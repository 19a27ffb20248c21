#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/data/findings.h"
#include "engine/data/json_row.h"

namespace finetuned::data {

// What the rows of a file look like. One file holds one format.
enum class Format {
  kMessages,          // SFT: messages[, tools]
  kConversations,     // SFT: conversations of from/value, or of role/content[, tools]
  kPromptCompletion,  // SFT: prompt, completion; both strings or both message lists[, tools]
  kAlpaca,            // SFT: instruction, output[, input]
  kText,              // SFT: text
  kPreference,        // DPO, KTO: prompt, chosen, rejected; all strings or all message lists[, tools]
  kImplicitPreference,  // DPO, KTO: chosen, rejected, which begin with the same prompt[, tools]
  kUnpaired,          // KTO: prompt, completion, label[, tools]
  kQuestionAnswer,    // GRPO: question, answer
  kPrompt,            // GRPO: prompt[, answer]
};

struct FormatSpec {
  Format format;
  Method method;
  const char* name;  // as in ValidationReport::format
  std::vector<std::string> required;
  std::vector<std::string> optional;
};

// All formats, those of one method by precedence: a row that fits two is read as the first.
std::span<const FormatSpec> AllFormats();
// The first entry of a format that several methods read.
const FormatSpec& SpecOf(Format format);
// Rows with a chosen and a rejected answer.
bool IsPaired(Format format);
const char* MethodName(Method method);

// The schema of a file: what its first good row settled.
struct Schema {
  Format format = Format::kText;
  bool conversational = false;  // prompts are message lists
  bool has_answer = false;      // kPrompt: rows carry an answer
  int64_t line = 0;             // that settled it
};

// True for the keys some format reads; the values of others are never built.
bool IsKnownField(std::string_view key);

// The format whose required fields `row` has, else the one it has most of. Nothing, and an error
// that lists the formats, when it has none of them. Warns when another field could have been meant.
std::optional<Schema> DetectSchema(const text::Json& row, Method method, Findings* findings);

struct RowCheckOptions {
  int64_t long_text_words = 32'768;  // warn about a longer prompt, answer or text
};

// All checks of one row that need no tokenizer.
void CheckRow(const JsonRow& row, const Schema& schema, const RowCheckOptions& options,
              Findings* findings);

// The fields of the row that the format reads, as text that is equal for equal rows.
std::string CanonicalRow(const text::Json& row, const Schema& schema);

}  // namespace finetuned::data
