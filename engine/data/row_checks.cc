// CheckRow: the fields of each format.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/data/conversation.h"
#include "engine/data/preference_prompt.h"
#include "engine/data/row_schema.h"
#include "engine/data/text_util.h"

namespace finetuned::data {
namespace {

using text::Json;

class RowChecker {
 public:
  RowChecker(const JsonRow& row, const Schema& schema, const RowCheckOptions& options,
             Findings* findings)
      : row_(row.value), schema_(schema), options_(options), findings_(findings) {
    CheckNumbers(row.inexact_numbers);
  }

  void Check() {
    if (!HasRequiredFields()) return;
    switch (schema_.format) {
      case Format::kMessages:
        return CheckConversation("messages");
      case Format::kConversations:
        return CheckConversation("conversations");
      case Format::kPromptCompletion:
        CheckPromptAnd({"completion"});
        return;
      case Format::kAlpaca:
        return CheckAlpaca();
      case Format::kText:
        CheckText("text", kWarnIfBlank);
        return;
      case Format::kPreference:
        return CheckPreference();
      case Format::kImplicitPreference:
        return CheckImplicitPreference();
      case Format::kUnpaired:
        CheckPromptAnd({"completion"});
        return CheckLabel();
      case Format::kQuestionAnswer:
        CheckText("question", kErrorIfBlank);
        CheckText("answer", kErrorIfBlank);
        return;
      case Format::kPrompt:
        return CheckGrpoPrompt();
    }
  }

 private:
  enum Blank { kMayBeBlank, kWarnIfBlank, kErrorIfBlank };

  void CheckNumbers(const std::vector<std::string>& paths) {
    const FormatSpec& spec = SpecOf(schema_.format);
    for (const std::string& path : paths) {
      const std::string field = path.substr(0, path.find_first_of(".["));
      for (const auto* fields : {&spec.required, &spec.optional}) {
        if (std::find(fields->begin(), fields->end(), field) == fields->end()) continue;
        findings_->Error(path, "NUMBER_OUT_OF_RANGE",
                         absl::StrCat(path,
                                      " is a number too large to keep exactly; "
                                      "write it as a string"));
      }
    }
  }

  bool HasRequiredFields() {
    const FormatSpec& spec = SpecOf(schema_.format);
    std::vector<std::string> missing;
    for (const std::string& field : spec.required) {
      if (!row_.contains(field)) missing.push_back(field);
    }
    if (missing.empty()) return true;
    if (const FormatSpec* other = OtherFormat(spec)) {
      findings_->Error("", "SCHEMA_MISMATCH",
                       absl::StrCat("the row has the fields of format ", other->name, " (",
                                    absl::StrJoin(other->required, ", "), "), but line ",
                                    schema_.line, " made this a file of format ", spec.name, " (",
                                    absl::StrJoin(spec.required, ", "),
                                    "); put each format into a file of its own"));
      return false;
    }
    for (const std::string& field : missing) ReportMissing(field);
    return false;
  }

  const FormatSpec* OtherFormat(const FormatSpec& spec) const {
    for (const FormatSpec& other : AllFormats()) {
      if (other.method != spec.method || other.format == spec.format) continue;
      if (std::all_of(other.required.begin(), other.required.end(),
                      [&](const std::string& field) { return row_.contains(field); })) {
        return &other;
      }
    }
    return nullptr;
  }

  void ReportMissing(const std::string& field) {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : row_.items()) {
      if (!IsKnownField(key) && unknown.size() < 50) unknown.push_back(key);
    }
    std::string message = absl::StrCat("missing field ", field);
    const std::string nearest = NearestName(field, unknown);
    if (!nearest.empty()) {
      absl::StrAppend(&message, "; the row has an unknown field ", Printable(nearest),
                      ", is it misspelt?");
    }
    findings_->Error(field, "MISSING_FIELD", std::move(message));
  }

  // Checks a string field and returns it, or null after an error.
  const std::string* CheckText(const std::string& field, Blank blank) {
    const Json& value = row_.at(field);
    if (!value.is_string()) {
      findings_->Error(field, "WRONG_TYPE",
                       absl::StrCat(field, " must be a string, got ", TypeName(value)));
      return nullptr;
    }
    const auto& text = value.get_ref<const std::string&>();
    if (blank != kMayBeBlank && IsBlank(text)) {
      if (blank == kErrorIfBlank) {
        findings_->Error(field, "EMPTY_FIELD", absl::StrCat(field, " is empty"));
        return nullptr;
      }
      findings_->Warn(field, "EMPTY_FIELD",
                      absl::StrCat(field, " is empty: the row teaches at most an end token"));
    }
    WarnIfLong(field, text);
    return &text;
  }

  void WarnIfLong(const std::string& field, const std::string& text) {
    // A word takes at least one byte and one space.
    if (static_cast<int64_t>(text.size()) < 2 * options_.long_text_words) return;
    const int64_t words = CountWords(text);
    if (words <= options_.long_text_words) return;
    findings_->Warn(field, "LONG_TEXT",
                    absl::StrCat(field, " has ", words,
                                 " words, so about as many tokens or more (reported "
                                 "above ",
                                 options_.long_text_words,
                                 "); the sequence limit of the job will cut or drop the row"));
  }

  void CheckAlpaca() {
    CheckText("instruction", kWarnIfBlank);
    if (row_.contains("input") && !row_["input"].is_null()) CheckText("input", kMayBeBlank);
    CheckText("output", kWarnIfBlank);
  }

  void CheckConversation(const std::string& field) {
    CheckMessages(row_.at(field), field, Part::kConversation, findings_);
    WarnIfLongMessages(field);
    CheckTemplateFields();
  }

  void WarnIfLongMessages(const std::string& field) {
    const Json& list = row_.at(field);
    if (!list.is_array()) return;
    for (size_t i = 0; i < list.size(); ++i) {
      if (!list[i].is_object()) continue;
      for (const char* key : {"content", "value"}) {
        const auto content = list[i].find(key);
        if (content == list[i].end() || !content->is_string()) continue;
        WarnIfLong(absl::StrCat(field, "[", i, "].", key), content->get_ref<const std::string&>());
      }
    }
  }

  void CheckTemplateFields() {
    CheckTools(row_, findings_);
    const auto kwargs = row_.find("chat_template_kwargs");
    if (kwargs != row_.end() && !kwargs->is_null() && !kwargs->is_object()) {
      findings_->Error(
          "chat_template_kwargs", "WRONG_TYPE",
          absl::StrCat("chat_template_kwargs must be an object, got ", TypeName(*kwargs)));
    }
  }

  // True when `field` is of the kind line `schema_.line` settled: a string or a list of messages.
  bool HasKindOfFile(const std::string& field) {
    const Json& value = row_.at(field);
    if (value.is_array() == schema_.conversational && (value.is_array() || value.is_string())) {
      return true;
    }
    const char* wanted = schema_.conversational ? "a list of messages" : "a string";
    const bool other_kind = value.is_array() || value.is_string();
    const bool first = findings_->line() == schema_.line;
    findings_->Error(field, other_kind ? "SCHEMA_MISMATCH" : "WRONG_TYPE",
                     absl::StrCat(field, " must be ", wanted,
                                  !other_kind ? ""
                                  : first     ? " as the fields before it are"
                                              : absl::StrCat(" as on line ", schema_.line),
                                  ", got ", value.is_array() ? "a list" : TypeName(value)));
    return false;
  }

  // Returns whether prompt and answers are of the right kind. Content is checked either way.
  bool CheckPromptAnd(const std::vector<std::string>& answers) {
    bool good = HasKindOfFile("prompt");
    if (good && schema_.conversational) {
      CheckMessages(row_["prompt"], "prompt", Part::kPrompt, findings_);
      WarnIfLongMessages("prompt");
    } else if (good) {
      CheckText("prompt", kMayBeBlank);
    }
    for (const std::string& answer : answers) {
      // One message about a row of the other kind is enough.
      if (!good || !HasKindOfFile(answer)) return false;
      if (schema_.conversational) {
        CheckMessages(row_.at(answer), answer, Part::kAnswer, findings_);
        WarnIfLongMessages(answer);
      } else {
        CheckText(answer, kWarnIfBlank);
      }
    }
    if (schema_.conversational) CheckTemplateFields();
    return good;
  }

  void CheckPreference() {
    if (CheckPromptAnd({"chosen", "rejected"})) WarnIfEqualPair();
  }

  void CheckImplicitPreference() {
    for (const char* field : {"chosen", "rejected"}) {
      if (!HasKindOfFile(field)) return;
      if (schema_.conversational) {
        CheckMessages(row_.at(field), field, Part::kConversation, findings_);
        WarnIfLongMessages(field);
      } else {
        CheckText(field, kErrorIfBlank);
      }
    }
    if (!findings_->ok()) return;
    if (schema_.conversational) {
      CheckTemplateFields();
      const Json explicit_row = WithExplicitPrompt(row_);
      if (explicit_row["prompt"].empty()) {
        findings_->Error("chosen", "NO_COMMON_PROMPT",
                         "chosen and rejected do not begin with the same message, so the row has no prompt; begin "
                         "both with it, or put it into the field prompt");
        return;
      }
      for (const char* field : {"chosen", "rejected"}) {
        // Where it stands among the messages of the row is not known any more: the field alone is named.
        CheckMessages(explicit_row[field], field, Part::kAnswer, findings_);
      }
    }
    WarnIfEqualPair();
  }

  void WarnIfEqualPair() {
    if (row_["chosen"] != row_["rejected"]) return;
    findings_->Warn("rejected", "EQUAL_PAIR",
                    "chosen and rejected are the same: the pair has loss ln 2 and teaches nothing");
  }

  void CheckLabel() {
    const Json& label = row_["label"];
    if (label.is_boolean()) return;
    std::string got = TypeName(label);
    if (label.is_string())
      got = absl::StrCat("the string ", Quoted(label.get_ref<const std::string&>()));
    if (label.is_number_integer()) got = absl::StrCat("the number ", label.dump());
    findings_->Error("label", "WRONG_TYPE", absl::StrCat("label must be true or false, got ", got));
  }

  void CheckGrpoPrompt() {
    if (HasKindOfFile("prompt")) {
      if (schema_.conversational) {
        CheckMessages(row_["prompt"], "prompt", Part::kPrompt, findings_);
        WarnIfLongMessages("prompt");
        CheckTemplateFields();
      } else {
        CheckText("prompt", kErrorIfBlank);
      }
    }
    if (!schema_.has_answer) return;
    if (!row_.contains("answer")) {
      ReportMissing("answer");
    } else {
      CheckText("answer", kErrorIfBlank);
    }
  }

  const Json& row_;
  const Schema& schema_;
  const RowCheckOptions& options_;
  Findings* findings_;
};

}  // namespace

void CheckRow(const JsonRow& row, const Schema& schema, const RowCheckOptions& options,
              Findings* findings) {
  RowChecker(row, schema, options, findings).Check();
}

}  // namespace finetuned::data
