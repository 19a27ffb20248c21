#include "engine/data/json_row.h"

#include "engine/data/shuffle.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

bool KeepAll(std::string_view) { return true; }

std::optional<JsonError> Parse(std::string_view line, JsonRow* row) {
  return ParseJsonRow(line, {}, KeepAll, row);
}

std::string ReasonOf(std::string_view line) {
  JsonRow row;
  const auto error = Parse(line, &row);
  return error ? error->reason : "";
}

TEST(JsonRow, GoodRowEqualsTheLibraryParser) {
  const std::string line =
      R"( {"a": [1, -2, 3.5e-2, true, false, null, {}], "b": {"c": "x\n\"\\\/\u0041\ud83d\ude00"},)"
      R"( "d": 18446744073709551615, "e": -9223372036854775808, "f": "Åß", "": 0} )";
  JsonRow row;
  ASSERT_FALSE(Parse(line, &row)) << Parse(line, &row)->message;
  EXPECT_EQ(row.value, text::Json::parse(line));
  EXPECT_EQ(row.value.dump(), text::Json::parse(line).dump());
  EXPECT_TRUE(row.inexact_numbers.empty());
}

TEST(JsonRow, EachKindOfErrorHasItsReason) {
  EXPECT_EQ(ReasonOf(R"({"a": 1)"), "JSON_TRUNCATED");
  EXPECT_EQ(ReasonOf(R"({"a": "x)"), "JSON_TRUNCATED");
  EXPECT_EQ(ReasonOf(R"({"a": "\)"), "JSON_TRUNCATED");
  EXPECT_EQ(ReasonOf("{"), "JSON_TRUNCATED");
  EXPECT_EQ(ReasonOf(R"({"a": 1,})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": [1,]})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a" 1})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": 1 "b": 2})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": [1 2]})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": 01})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": 1.})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": .5})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": +1})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": 1e})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": tru})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": "\x41"})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": "\u12g4"})"), "JSON_SYNTAX");
  EXPECT_EQ(ReasonOf(R"({"a": 1} // no)"), "TRAILING_CHARACTERS");
  EXPECT_EQ(ReasonOf(R"({"a": 1}{"a": 2})"), "TRAILING_CHARACTERS");
  EXPECT_EQ(ReasonOf("{\"a\": \"\t\"}"), "CONTROL_CHARACTER");
  EXPECT_EQ(ReasonOf(R"({"a": "\ude00"})"), "LONE_SURROGATE");
  EXPECT_EQ(ReasonOf(R"({"a": "\ud83d\u0041"})"), "LONE_SURROGATE");
  EXPECT_EQ(ReasonOf(R"({"a": "\ud83dx"})"), "LONE_SURROGATE");
  EXPECT_EQ(ReasonOf(R"({"a": 1, "a": 1})"), "DUPLICATE_KEY");
  EXPECT_EQ(ReasonOf(R"([{"a": 1}])"), "NOT_AN_OBJECT");
  EXPECT_EQ(ReasonOf(R"("a")"), "NOT_AN_OBJECT");
  EXPECT_EQ(ReasonOf("12"), "NOT_AN_OBJECT");
  EXPECT_EQ(ReasonOf("NaN"), "JSON_SYNTAX");
}

TEST(JsonRow, ErrorsNamePathAndColumn) {
  JsonRow row;
  auto error = Parse(R"({"m": [{"c": 1}, {"c": {"d": [0, NaN]}}]})", &row);
  EXPECT_EQ(error->field, "m[1].c.d[1]");
  EXPECT_THAT(error->message, HasSubstr("NaN is not JSON"));
  EXPECT_THAT(error->message, HasSubstr("(column 34)"));
  error = Parse(R"({"a": "ÅÅÅÅ", 'b': 1})", &row);  // columns count characters
  EXPECT_THAT(error->message, HasSubstr("(column 15)"));
  error = Parse(R"({"a": {"k": 1, "x": 2, "k": 3}})", &row);
  EXPECT_EQ(error->field, "a.k");
}

TEST(JsonRow, DuplicateKeysAreFoundInLargeObjects) {
  std::string line = "{";
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&line, "\"k", i, "\": 1, ");
  EXPECT_EQ(ReasonOf(line + "\"z\": 1}"), "");
  EXPECT_EQ(ReasonOf(line + "\"k7\": 1}"), "DUPLICATE_KEY");
  EXPECT_EQ(ReasonOf(line + "\"k19999\": 1}"), "DUPLICATE_KEY");
}

TEST(JsonRow, DepthIsLimitedWithoutRecursion) {
  JsonRow row;
  const auto nested = [](int depth) {
    return "{\"x\": " + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_EQ(ReasonOf(nested(511)), "");
  const auto error = Parse(nested(512), &row);
  EXPECT_EQ(error->reason, "NESTING_TOO_DEEP");
  EXPECT_EQ(error->field, "x");
  EXPECT_EQ(ReasonOf(nested(1'000'000)), "NESTING_TOO_DEEP");
}

TEST(JsonRow, HugeNumbersAreKeptInexactAndNamed) {
  JsonRow row;
  ASSERT_FALSE(Parse(R"({"a": 123456789012345678901234567890, "b": [0, 1e400], "c": 1e5})", &row));
  EXPECT_THAT(row.inexact_numbers, ElementsAre("a", "b[1]"));
}

TEST(JsonRow, FieldsNotKeptAreCheckedButNotBuilt) {
  JsonRow row;
  const auto keep = [](std::string_view key) { return key == "a"; };
  ASSERT_FALSE(ParseJsonRow(R"({"a": [1], "b": {"x": [1, 2, 1e999]}})", {}, keep, &row));
  EXPECT_EQ(row.value.dump(), R"({"a":[1],"b":null})");
  EXPECT_TRUE(row.inexact_numbers.empty());
  EXPECT_TRUE(ParseJsonRow(R"({"a": [1], "b": {"x": [1, 2,]}})", {}, keep, &row));
}

// Random edits of good rows: whatever we accept, the library accepts with the same value; what only
// the library accepts breaks one of the rules we add.
TEST(JsonRow, MutatedRowsAgreeWithTheLibraryParser) {
  const std::string seed =
      R"({"a": [1, -2.5e3, {"b": "x\n\u00e9\ud83d\ude00"}], "c": {"d": null, "e": true}, "a2": ""})";
  constexpr std::string_view kBytes = "{}[]\",:\\abu0123456789eE+-. \tntf";
  SplitMix64 generator(9);
  int accepted = 0;
  for (int round = 0; round < 100'000; ++round) {
    std::string line = seed;
    for (uint64_t edits = 1 + generator.Below(3); edits > 0; --edits) {
      const size_t at = generator.Below(line.size());
      const char byte = kBytes[generator.Below(kBytes.size())];
      switch (generator.Below(3)) {
        case 0:
          line[at] = byte;
          break;
        case 1:
          line.insert(at, 1, byte);
          break;
        default:
          line.erase(at, 1);
      }
    }
    JsonRow row;
    const auto error = Parse(line, &row);
    const auto reference = text::Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!error) {
      ++accepted;
      if (row.inexact_numbers.empty()) {
        ASSERT_EQ(row.value, reference) << line;
      }
    } else if (!reference.is_discarded()) {
      ASSERT_THAT(error->reason, testing::AnyOf("DUPLICATE_KEY", "NOT_AN_OBJECT")) << line;
    }
  }
  EXPECT_GT(accepted, 10'000);
}

TEST(JsonRow, ValuesAreCounted) {
  JsonLimits limits;
  limits.max_values = 4;
  JsonRow row;
  EXPECT_FALSE(ParseJsonRow(R"({"a": [1, 2]})", limits, KeepAll, &row));
  const auto error = ParseJsonRow(R"({"a": [1, 2, 3]})", limits, KeepAll, &row);
  EXPECT_EQ(error->reason, "TOO_MANY_VALUES");
}

}  // namespace
}  // namespace finetuned::data
