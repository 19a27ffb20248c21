// Walks the table of deliberately bad files: each must get the answer a careful tool gives.
#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::map<std::string, Method> kMethods = {
    {"sft", Method::kSft}, {"dpo", Method::kDpo}, {"kto", Method::kKto}, {"grpo", Method::kGrpo}};

std::string Describe(const ValidationReport& report) {
  std::string out = absl::StrCat("rows ", report.rows, " format ", report.format, "\n");
  for (const auto& [name, list] :
       {std::pair("error", &report.errors), std::pair("warning", &report.warnings)}) {
    for (const RowError& finding : *list) {
      absl::StrAppend(&out, name, " line ", finding.line, " [", finding.field, "] ", finding.reason,
                      ": ", finding.message, "\n");
    }
  }
  return out;
}

// Whether a finding has the line and field the table asks for.
bool Names(const std::vector<RowError>& findings, const json& expected) {
  return std::any_of(findings.begin(), findings.end(), [&](const RowError& finding) {
    return (expected["line"].is_null() || finding.line == expected["line"]) &&
           (expected["field"].is_null() || finding.field == expected["field"]);
  });
}

void CheckVerdict(const ValidationReport& report, const json& expected) {
  const std::string verdict = expected["verdict"];
  if (verdict == "accept") {
    EXPECT_TRUE(report.ok);
    EXPECT_EQ(report.rows, expected["rows"]);
  } else if (verdict == "accept_warn") {
    EXPECT_TRUE(report.ok);
    EXPECT_EQ(report.rows, expected["rows"]);
    EXPECT_TRUE(Names(report.warnings, expected));
  } else if (verdict == "reject") {
    EXPECT_FALSE(report.ok);
    EXPECT_TRUE(Names(report.errors, expected));
    const int64_t bad_rows = expected["file"] == "bad/sft_mixed_schemas.jsonl" ? 2 : 1;
    EXPECT_EQ(report.error_count, bad_rows) << "good rows around the bad one must not be blamed";
  } else if (verdict == "reject_or_warn") {
    EXPECT_TRUE(Names(report.errors, expected) || Names(report.warnings, expected));
  } else {
    ASSERT_EQ(verdict, "reject_or_accept");
    EXPECT_TRUE(report.ok ? report.rows == expected["rows"] : Names(report.errors, expected));
  }
}

TEST(BadFiles, EachGetsTheExpectedAnswer) {
  SKIP_WITHOUT(SharedData("bad_expected.jsonl"));
  std::ifstream table(SharedData("bad_expected.jsonl"));
  int files = 0;
  for (std::string line; std::getline(table, line);) {
    const json expected = json::parse(line);
    const std::string file = expected["file"];
    const auto report = ValidateFile(SharedData(file), kMethods.at(expected["job"]));
    ASSERT_TRUE(report.ok()) << report.status();
    SCOPED_TRACE(absl::StrCat(file, ": ", line, "\n", Describe(*report)));
    CheckVerdict(*report, expected);
    for (const auto* findings : {&report->errors, &report->warnings}) {
      for (const RowError& finding : *findings) {
        EXPECT_FALSE(finding.message.empty());
        for (char c : finding.message) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << "raw byte in message";
      }
    }
    ++files;
  }
  EXPECT_EQ(files, 58);
}

struct MessageCase {
  const char* file;
  const char* words;
};

class BadFileMessage : public testing::TestWithParam<MessageCase> {};

TEST_P(BadFileMessage, SaysWhatIsWrong) {
  const std::string path = SharedData(absl::StrCat("bad/", GetParam().file, ".jsonl"));
  SKIP_WITHOUT(path);
  const std::string name = GetParam().file;
  const auto report = ValidateFile(path, kMethods.at(name.starts_with("dpo")    ? "dpo"
                                                     : name.starts_with("kto")  ? "kto"
                                                     : name.starts_with("grpo") ? "grpo"
                                                                                : "sft"));
  ASSERT_TRUE(report.ok());
  const auto& findings = report->errors.empty() ? report->warnings : report->errors;
  ASSERT_FALSE(findings.empty());
  EXPECT_THAT(findings[0].message, HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadFileMessage,
    testing::Values(
        MessageCase{"sft_invalid_utf8", "invalid UTF-8 at byte 86 of the line (byte offset 250"},
        MessageCase{"sft_utf16le_file", "UTF-16LE"}, MessageCase{"sft_gzip_named_jsonl", "gzip"},
        MessageCase{"sft_truncated_last_line", "unexpected end of JSON"},
        MessageCase{"sft_empty_file", "the file is empty"},
        MessageCase{"sft_only_blank_lines", "no rows"},
        MessageCase{"sft_nul_raw", "unescaped control character 0x00"},
        MessageCase{"sft_not_an_object", "the line is an array"},
        MessageCase{"sft_bare_string_line", "the line is a string"},
        MessageCase{"sft_json_array_file", "the file is a JSON array"},
        MessageCase{"sft_two_objects_on_one_line", "a second object follows"},
        MessageCase{"sft_single_quotes", "(column 2)"}, MessageCase{"sft_trailing_comma", "JSON"},
        MessageCase{"sft_nan_literal", "NaN is not JSON"},
        MessageCase{"sft_duplicate_keys", "\"output\" comes twice"},
        MessageCase{"sft_lone_surrogate", "\\ud83d"},
        MessageCase{"sft_deep_nesting", "more than 512 deep"},
        MessageCase{"sft_misspelt_field", "unknown field ouput"},
        MessageCase{"sft_wrong_type", "output must be a string, got a number"},
        MessageCase{"sft_null_output", "output must be a string, got null"},
        MessageCase{"sft_mixed_schemas", "format messages (messages), but line 1"},
        MessageCase{"chat_unknown_role", "system, developer, user, assistant, tool"},
        MessageCase{"chat_no_assistant", "no assistant message"},
        MessageCase{"sft_prompt_longer_than_any_sequence", "45052 words"},
        MessageCase{"dpo_chosen_wrong_role", "chosen[0].role must be assistant"},
        MessageCase{"dpo_chosen_equals_rejected", "ln 2"},
        MessageCase{"dpo_mixed_string_and_messages",
                    "prompt must be a list of messages as on line 1, got a string"},
        MessageCase{"kto_label_string", "must be true or false, got the string \"false\""},
        MessageCase{"kto_label_integer", "must be true or false, got the number 1"},
        MessageCase{"kto_only_desirable", "every label is true"},
        MessageCase{"grpo_answer_is_number", "answer must be a string, got a number"},
        MessageCase{"grpo_empty_question", "question is empty"}),
    [](const auto& info) { return std::string(info.param.file); });

TEST(BadFiles, TenMegabyteLineIsRefusedWithNumberAndLimit) {
  const std::string good =
      "{\"instruction\": \"Name the capital of Norway.\", \"input\": \"\", \"output\": "
      "\"Oslo.\"}\n";
  std::string content = good + "{\"instruction\": \"Summarise.\", \"input\": \"";
  for (int i = 0; i < 873'814; ++i) content += "lorem ipsum ";
  content += "\", \"output\": \"Too long.\"}\n" + good;
  TempFile file(content);
  const auto report = ValidateFile(file.path(), Method::kSft);
  ASSERT_TRUE(report.ok());
  ASSERT_EQ(report->error_count, 1);
  EXPECT_EQ(report->errors[0].line, 2);
  EXPECT_EQ(report->errors[0].reason, "LINE_TOO_LONG");
  EXPECT_EQ(report->errors[0].message, "the line has 10485833 bytes; the limit is 8388608");
  EXPECT_EQ(report->rows, 2);

  // Under a larger limit the row is read, its prompt reported, and no token of it trains.
  TokenizeOptions options;
  options.limits.max_line_bytes = 16 << 20;
  const auto larger = ValidateFile(file.path(), Method::kSft, options.limits);
  EXPECT_TRUE(larger->ok);
  EXPECT_EQ(larger->warnings.at(0).field, "input");
  const auto dataset = TokenizeFile(file.path(), FakeTokenizer(), "", options);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->stats.dropped_by_reason.at("PROMPT_TOO_LONG"), 1);
  EXPECT_EQ(dataset->warnings.at(0).line, 2);
  EXPECT_THAT(dataset->warnings.at(0).message, HasSubstr("limit of 1024"));
}

struct GoodFile {
  const char* name;
  Method method;
  const char* format;
  int64_t rows, duplicates;
};

TEST(GoodFiles, AreAcceptedWithTheirRowCounts) {
  SKIP_WITHOUT(SharedData("sft/chat.jsonl"));
  const GoodFile files[] = {
      {"sft/alpaca_en.jsonl", Method::kSft, "alpaca", 900, 14},
      {"sft/chat.jsonl", Method::kSft, "messages", 170, 12},
      {"sft/identity.jsonl", Method::kSft, "messages", 91, 0},
      {"sft/toolcall.jsonl", Method::kSft, "messages", 160, 2},
      {"sft/toolcall_reasoning.jsonl", Method::kSft, "messages", 40, 0},
      {"dpo/dpo_en.jsonl", Method::kDpo, "preference", 250, 4},
      {"kto/kto_en.jsonl", Method::kKto, "unpaired_preference", 250, 0},
      {"grpo/gsm8k_train.jsonl", Method::kGrpo, "question_answer", 2000, 0},
      {"grpo/gsm8k_test.jsonl", Method::kGrpo, "question_answer", 1319, 0},
  };
  for (const GoodFile& file : files) {
    const auto report = ValidateFile(SharedData(file.name), file.method);
    ASSERT_TRUE(report.ok()) << report.status();
    SCOPED_TRACE(absl::StrCat(file.name, ": ", Describe(*report)));
    EXPECT_TRUE(report->ok);
    EXPECT_EQ(report->rows, file.rows);
    EXPECT_EQ(report->format, file.format);
    EXPECT_EQ(report->duplicate_rows, file.duplicates);
    EXPECT_EQ(report->sha256.size(), 64u);
  }
}

}  // namespace
}  // namespace finetuned::data
