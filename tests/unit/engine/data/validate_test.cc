// Rules of single rows and of whole files beyond the table of bad files.
#include "engine/data/dataset.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ValidationReport Validate(const std::string& content, Method method = Method::kSft,
                          const ReadLimits& limits = {}) {
  TempFile file(content);
  auto report = ValidateFile(file.path(), method, limits);
  EXPECT_TRUE(report.ok()) << report.status();
  return *std::move(report);
}

// "LINE FIELD REASON" of each error, or of each warning when there are no errors.
std::vector<std::string> FindingsOf(const std::string& content, Method method = Method::kSft) {
  const ValidationReport report = Validate(content, method);
  std::vector<std::string> out;
  for (const RowError& finding : report.ok ? report.warnings : report.errors) {
    out.push_back(absl::StrCat(finding.line, " ", finding.field, " ", finding.reason));
  }
  return out;
}

std::string Chat(const std::string& messages, const std::string& more = "") {
  return R"({"messages": [)" + messages + "]" + more + "}\n";
}

constexpr char kUser[] = R"({"role": "user", "content": "Hi"})";
constexpr char kAssistant[] = R"({"role": "assistant", "content": "Yo"})";

TEST(Formats, AreFoundOutFromTheFirstRow) {
  EXPECT_EQ(Validate(R"({"text": "a"})").format, "text");
  EXPECT_EQ(Validate(R"({"prompt": "a", "completion": "b"})").format, "prompt_completion");
  EXPECT_EQ(Validate(R"({"instruction": "a", "output": "b"})").format, "alpaca");
  EXPECT_EQ(Validate(R"({"instruction": "a", "input": null, "output": "b"})").rows, 1);
  EXPECT_EQ(Validate(Chat(absl::StrCat(kUser, ",", kAssistant))).format, "messages");
  EXPECT_EQ(Validate(R"({"conversations": [{"from": "human", "value": "a"},)"
                     R"( {"from": "gpt", "value": "b"}]})")
                .format,
            "conversations");
  EXPECT_EQ(Validate(R"({"prompt": "a", "chosen": "b", "rejected": "c"})", Method::kDpo).format,
            "preference");
  EXPECT_EQ(Validate(R"({"prompt": "a"})", Method::kGrpo).format, "prompt");
  EXPECT_EQ(Validate(R"({"prompt": "a", "answer": "1"})", Method::kGrpo).format, "prompt");
}

TEST(Formats, AlpacaWithTextColumnIsAlpacaWithAWarning) {
  const std::string row = R"({"instruction": "a", "input": "", "output": "b", "text": "all"})";
  const ValidationReport report = Validate(row + "\n" + row);
  EXPECT_EQ(report.format, "alpaca");
  ASSERT_EQ(report.warnings.size(), 1u) << "once per file";
  EXPECT_EQ(report.warnings[0].field, "text");
  EXPECT_EQ(report.duplicate_rows, 1);
}

TEST(Formats, RowsOfAnotherMethodNameIt) {
  const ValidationReport report =
      Validate(R"({"prompt": "a", "chosen": "b", "rejected": "c"})", Method::kSft);
  EXPECT_EQ(report.errors.at(0).reason, "UNKNOWN_FORMAT");
  EXPECT_THAT(report.errors[0].message, HasSubstr("the row fits method dpo"));
  EXPECT_THAT(Validate(R"({"foo": 1})").errors.at(0).message,
              HasSubstr("the row has foo, but sft rows need one of these sets of fields: messages; "
                        "conversations; prompt + completion; instruction + output; text"));
}

TEST(Formats, FirstGoodRowDecidesAfterABadOne) {
  EXPECT_THAT(
      FindingsOf("{\"text\": \n{\"text\": \"a\"}\n{\"prompt\": \"b\", \"completion\": \"\"}\n"),
      ElementsAre("1 text JSON_TRUNCATED", "3  SCHEMA_MISMATCH"));
}

TEST(Messages, WrongShapesAreNamed) {
  EXPECT_THAT(FindingsOf(Chat("1")), ElementsAre("1 messages[0] WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(R"({"content": "a"})")),
              ElementsAre("1 messages[0].role MISSING_FIELD"));
  EXPECT_THAT(FindingsOf(Chat(R"({"role": 1, "content": "a"})")),
              ElementsAre("1 messages[0].role WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(absl::StrCat(kUser, R"(,{"role": "assistant", "content": 5})"))),
              ElementsAre("1 messages[1].content WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(absl::StrCat(
                  kAssistant, R"(,{"role": "user", "content": [{"type": "image", "url": "x"}]})"))),
              ElementsAre("1 messages[1].content UNSUPPORTED_CONTENT"));
  EXPECT_THAT(FindingsOf(R"({"conversations": [{"from": "wizard", "value": "a"}]})"),
              ElementsAre("1 conversations[0].from UNKNOWN_ROLE"));
  EXPECT_THAT(FindingsOf(Chat(absl::StrCat(R"({"role": "human", "content": "a"},)", kAssistant))),
              ElementsAre("1 messages[0].role UNKNOWN_ROLE"));
}

TEST(Messages, ToolCallsAreChecked) {
  const auto with_call = [](const std::string& call) {
    return Chat(absl::StrCat(kUser, R"(,{"role": "assistant", "tool_calls": [)", call, "]}"));
  };
  EXPECT_THAT(FindingsOf(with_call(R"({"function": {"name": "f", "arguments": {"a": 1}}})")),
              ElementsAre());
  EXPECT_THAT(FindingsOf(with_call(R"({"name": "f", "arguments": "{}"})")), ElementsAre());
  EXPECT_THAT(FindingsOf(with_call(R"({"function": {"arguments": "{}"}})")),
              ElementsAre("1 messages[1].tool_calls[0].function.name MISSING_FIELD"));
  EXPECT_THAT(FindingsOf(with_call(R"({"function": {"name": "f", "arguments": "[1]"}})")),
              ElementsAre("1 messages[1].tool_calls[0].function.arguments INVALID_TOOL_ARGUMENTS"));
  EXPECT_THAT(
      FindingsOf(Chat(absl::StrCat(
          R"({"role": "user", "content": "a", "tool_calls": [{"name": "f"}]},)", kAssistant))),
      ElementsAre("1 messages[0].tool_calls WRONG_ROLE"));
}

TEST(Messages, ToolsAreAListOrItsText) {
  const std::string chat = absl::StrCat(kUser, ",", kAssistant);
  EXPECT_TRUE(FindingsOf(Chat(chat, R"(, "tools": null)")).empty());
  EXPECT_TRUE(FindingsOf(Chat(chat, R"(, "tools": "[{\"name\": \"f\"}]")")).empty());
  EXPECT_THAT(FindingsOf(Chat(chat, R"(, "tools": {"name": "f"})")),
              ElementsAre("1 tools WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(chat, R"(, "tools": ["f"])")), ElementsAre("1 tools[0] WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(chat, R"(, "tools": "[")")), ElementsAre("1 tools WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(Chat(chat, R"(, "chat_template_kwargs": [])")),
              ElementsAre("1 chat_template_kwargs WRONG_TYPE"));
}

TEST(Messages, ManyFindingsOfOneRowAreCountedNotKept) {
  std::string messages = kAssistant;
  for (int i = 0; i < 50'000; ++i) messages += R"(,{"role": "x"})";
  const ValidationReport report = Validate(Chat(messages));
  EXPECT_EQ(report.errors.size(), 20u);
  EXPECT_EQ(report.error_count, 50'000);
}

TEST(Pairs, KindsMustNotMix) {
  EXPECT_THAT(
      FindingsOf(R"({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})"),
      ElementsAre("1 completion SCHEMA_MISMATCH"));
  EXPECT_THAT(FindingsOf(R"({"prompt": 1, "completion": "b"})"),
              ElementsAre("1 prompt WRONG_TYPE"));
  EXPECT_THAT(FindingsOf(R"({"prompt": "a", "completion": ""})"),
              ElementsAre("1 completion EMPTY_FIELD"));
}

TEST(Grpo, AnswersAreNeededInAllRowsOrNone) {
  EXPECT_THAT(
      FindingsOf("{\"prompt\": \"a\", \"answer\": \"1\"}\n{\"prompt\": \"b\"}\n", Method::kGrpo),
      ElementsAre("2 answer MISSING_FIELD"));
  EXPECT_THAT(FindingsOf(R"({"prompt": [{"role": "user", "content": "a"}]})", Method::kGrpo),
              ElementsAre());
  EXPECT_THAT(FindingsOf(R"({"prompt": " "})", Method::kGrpo), ElementsAre("1 prompt EMPTY_FIELD"));
}

TEST(Numbers, TooLargeOnesMatterOnlyInFieldsThatAreRead) {
  const std::string chat = absl::StrCat(kUser, ",", kAssistant);
  EXPECT_TRUE(FindingsOf(Chat(chat, R"(, "id": 1e999)")).empty());
  EXPECT_THAT(FindingsOf(Chat(chat, R"(, "tools": [{"max": 1e999}])")),
              ElementsAre("1 tools[0].max NUMBER_OUT_OF_RANGE"));
}

TEST(Files, OtherKindsAreNamed) {
  const auto message = [](std::string_view content) {
    return Validate(std::string(content)).errors.at(0).message;
  };
  using std::string_view_literals::operator""sv;
  EXPECT_THAT(message("\xFE\xFF\x00{"sv), HasSubstr("UTF-16BE"));
  EXPECT_THAT(message("{\x00\"\x00"sv), HasSubstr("UTF-16LE text without"));
  EXPECT_THAT(message("\xFF\xFE\x00\x00{\x00\x00\x00"sv), HasSubstr("UTF-32LE"));
  EXPECT_THAT(message("PAR1xxxx"sv), HasSubstr("Parquet"));
  EXPECT_THAT(message("PK\x03\x04"sv), HasSubstr("zip"));
  EXPECT_THAT(message("\x28\xB5\x2F\xFD"sv), HasSubstr("zstd"));
  EXPECT_THAT(message("[{\"text\": \"a\"}]"sv), HasSubstr("JSON array"));
  EXPECT_THAT(message("text\na\n"sv), HasSubstr("JSON syntax error"));
}

TEST(Files, LimitsAndCountsHold) {
  ReadLimits limits;
  limits.max_rows = 3;
  const std::string row = "{\"text\": \"a\"}\n";
  EXPECT_TRUE(Validate(row + row + row, Method::kSft, limits).ok);
  const ValidationReport report = Validate(row + row + row + row, Method::kSft, limits);
  EXPECT_EQ(report.errors.at(0).reason, "TOO_MANY_ROWS");
  EXPECT_EQ(report.errors[0].line, 4);
  EXPECT_EQ(report.duplicate_rows, 2);
  EXPECT_EQ(report.size_bytes, static_cast<int64_t>(4 * row.size())) << "hashed to the end";

  std::string bad;
  for (int i = 0; i < 100; ++i) bad += "{\"text\": 1}\n";
  limits = ReadLimits();
  limits.max_errors = 5;
  EXPECT_EQ(Validate(bad, Method::kSft, limits).errors.size(), 5u);
  EXPECT_EQ(Validate(bad, Method::kSft, limits).error_count, 100);
}

TEST(Files, Sha256IsOfTheBytesOnDisk) {
  EXPECT_EQ(Validate("\xEF\xBB\xBF{\"text\": \"a\"}\r\n").sha256,
            "dd6ca2deee164f747e627155fa58c2d459119d5e4a20ee8666d326863f8c0753");
}

TEST(Duplicates, AreEqualInTheFieldsThatAreRead) {
  EXPECT_EQ(Validate("{\"text\": \"a\", \"id\": 1}\n{\"id\": 2, \"text\": \"a\"}\n").duplicate_rows,
            1);
  EXPECT_EQ(Validate("{\"text\": \"a\"}\n{\"text\": \"a \"}\n").duplicate_rows, 0);
}

TEST(Messages, NeverHoldRawBytesOfTheFile) {
  const ValidationReport report = Validate("{\"\x1B]0;evil\x07\": 1}\n{\"a\": \"\xFF\x1B[2J\"}\n");
  for (const RowError& error : report.errors) {
    for (char c : error.field + error.message) EXPECT_TRUE(c >= 0x20 && c < 0x7F);
  }
  EXPECT_EQ(report.error_count, 2);
}

}  // namespace
}  // namespace finetuned::data
