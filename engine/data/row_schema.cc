#include "engine/data/row_schema.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::Json;

size_t CountPresent(const Json& row, const std::vector<std::string>& fields) {
  return std::count_if(fields.begin(), fields.end(),
                       [&](const std::string& field) { return row.contains(field); });
}

bool IsComplete(const Json& row, const FormatSpec& spec) {
  return CountPresent(row, spec.required) == spec.required.size();
}

std::string FormatList(Method method) {
  std::vector<std::string> lines;
  for (const FormatSpec& spec : AllFormats()) {
    if (spec.method == method) lines.push_back(absl::StrJoin(spec.required, " + "));
  }
  return absl::StrJoin(lines, "; ");
}

// The keys of a row, for messages: the first few.
std::string KeyList(const Json& row) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : row.items()) {
    if (keys.size() == 8) {
      keys.push_back("...");
      break;
    }
    keys.push_back(Printable(key));
  }
  return keys.empty() ? "no fields" : absl::StrJoin(keys, ", ");
}

// A format of another method that fits the row much better: the user chose the wrong method. Of several the one that
// asks for most fields.
const FormatSpec* FormatOfOtherMethod(const Json& row, Method method) {
  const FormatSpec* best = nullptr;
  for (const FormatSpec& spec : AllFormats()) {
    if (spec.method == method || !IsComplete(row, spec)) continue;
    if (best == nullptr || spec.required.size() > best->required.size()) best = &spec;
  }
  return best;
}

void ReportUnknownFormat(const Json& row, Method method, Findings* findings) {
  std::string message =
      absl::StrCat("the row has ", KeyList(row), ", but ", MethodName(method),
                   " rows need one of these sets of fields: ", FormatList(method));
  if (const FormatSpec* other = FormatOfOtherMethod(row, method)) {
    absl::StrAppend(&message, "; the row fits method ", MethodName(other->method));
  }
  findings->Error("", "UNKNOWN_FORMAT", std::move(message));
}

void WarnAboutOtherFormats(const Json& row, const FormatSpec& chosen, Findings* findings) {
  for (const FormatSpec& spec : AllFormats()) {
    if (spec.method != chosen.method || spec.format == chosen.format || !IsComplete(row, spec)) {
      continue;
    }
    const std::string& field = spec.required.front();
    const auto& used = chosen.required;
    if (std::find(used.begin(), used.end(), field) != used.end()) continue;
    findings->Warn(field, "UNUSED_FIELD",
                   absl::StrCat("the row also has ", field, "; the file is read as ", chosen.name,
                                " (", absl::StrJoin(used, ", "), ") and ", field, " is not used"));
  }
}

}  // namespace

std::span<const FormatSpec> AllFormats() {
  static const auto* const kFormats = new std::vector<FormatSpec>{
      {Format::kMessages,
       Method::kSft,
       "messages",
       {"messages"},
       {"tools", "chat_template_kwargs"}},
      {Format::kConversations,
       Method::kSft,
       "conversations",
       {"conversations"},
       {"tools", "chat_template_kwargs"}},
      {Format::kPromptCompletion,
       Method::kSft,
       "prompt_completion",
       {"prompt", "completion"},
       {"tools", "chat_template_kwargs"}},
      {Format::kAlpaca, Method::kSft, "alpaca", {"instruction", "output"}, {"input"}},
      {Format::kText, Method::kSft, "text", {"text"}, {}},
      {Format::kPreference,
       Method::kDpo,
       "preference",
       {"prompt", "chosen", "rejected"},
       {"tools", "chat_template_kwargs"}},
      {Format::kImplicitPreference,
       Method::kDpo,
       "implicit_preference",
       {"chosen", "rejected"},
       {"tools", "chat_template_kwargs"}},
      {Format::kUnpaired,
       Method::kKto,
       "unpaired_preference",
       {"prompt", "completion", "label"},
       {"tools", "chat_template_kwargs"}},
      {Format::kPreference,
       Method::kKto,
       "preference",
       {"prompt", "chosen", "rejected"},
       {"tools", "chat_template_kwargs"}},
      {Format::kImplicitPreference,
       Method::kKto,
       "implicit_preference",
       {"chosen", "rejected"},
       {"tools", "chat_template_kwargs"}},
      {Format::kQuestionAnswer, Method::kGrpo, "question_answer", {"question", "answer"}, {}},
      {Format::kPrompt,
       Method::kGrpo,
       "prompt",
       {"prompt"},
       {"answer", "tools", "chat_template_kwargs"}},
  };
  return *kFormats;
}

const FormatSpec& SpecOf(Format format) {
  const std::span<const FormatSpec> all = AllFormats();
  return *std::find_if(all.begin(), all.end(),
                       [&](const FormatSpec& spec) { return spec.format == format; });
}

bool IsPaired(Format format) {
  return format == Format::kPreference || format == Format::kImplicitPreference;
}

const char* MethodName(Method method) {
  switch (method) {
    case Method::kSft:
      return "sft";
    case Method::kDpo:
      return "dpo";
    case Method::kKto:
      return "kto";
    case Method::kGrpo:
      return "grpo";
  }
  return "";
}

bool IsKnownField(std::string_view key) {
  for (const FormatSpec& spec : AllFormats()) {
    for (const auto* fields : {&spec.required, &spec.optional}) {
      if (std::find(fields->begin(), fields->end(), key) != fields->end()) return true;
    }
  }
  return false;
}

std::optional<Schema> DetectSchema(const Json& row, Method method, Findings* findings) {
  const FormatSpec* best = nullptr;
  size_t best_present = 0;
  for (const FormatSpec& spec : AllFormats()) {
    if (spec.method != method) continue;
    // A complete format wins over any incomplete one, an earlier over a later.
    size_t present = CountPresent(row, spec.required);
    if (present == spec.required.size()) present += 100;
    if (present > best_present) {
      best = &spec;
      best_present = present;
    }
  }
  if (best && best_present < 100 && FormatOfOtherMethod(row, method)) best = nullptr;
  if (!best) {
    ReportUnknownFormat(row, method, findings);
    return std::nullopt;
  }
  WarnAboutOtherFormats(row, *best, findings);
  if (method == Method::kSft && row.contains("chosen") && row.contains("rejected")) {
    findings->Warn("chosen", "UNUSED_FIELD",
                   "the row also has chosen and rejected, which sft does not use; method dpo does");
  }
  Schema schema;
  schema.format = best->format;
  schema.line = findings->line();
  const auto prompt = row.find(best->format == Format::kImplicitPreference ? "chosen" : "prompt");
  schema.conversational = best->format == Format::kMessages ||
                          best->format == Format::kConversations ||
                          (prompt != row.end() && prompt->is_array());
  schema.has_answer = row.contains("answer");
  return schema;
}

std::string CanonicalRow(const Json& row, const Schema& schema) {
  const FormatSpec& spec = SpecOf(schema.format);
  std::string canonical;
  for (const auto* fields : {&spec.required, &spec.optional}) {
    for (const std::string& field : *fields) {
      const auto value = row.find(field);
      // A field that is absent counts as one that is null or empty.
      if (value != row.end() && !value->is_null() && *value != "") canonical += value->dump();
      canonical += '\n';
    }
  }
  return canonical;
}

}  // namespace finetuned::data
