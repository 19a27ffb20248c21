// Prompts that two answers share, checks of such rows, and mismatched answers.
#include <fstream>

#include "engine/data/mismatched.h"
#include "engine/data/preference_prompt.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::HasSubstr;
using text::Json;

Json Explicit(const char* chosen, const char* rejected) {
  return WithExplicitPrompt(Json{{"chosen", Json::parse(chosen)}, {"rejected", Json::parse(rejected)}});
}

TEST(PreferencePrompt, OfStringsIsWhatTheyBeginWith) {
  Json row = Explicit("\"The sky is blue.\"", "\"The sky is green.\"");
  EXPECT_EQ(row["prompt"], "The sky is");  // the space belongs to the answers
  EXPECT_EQ(row["chosen"], " blue.");
  EXPECT_EQ(row["rejected"], " green.");
  row = Explicit("\"ab\"", "\"abc\"");  // one begins the other: its last character is the answer
  EXPECT_EQ(row["prompt"], "a");
  EXPECT_EQ(row["chosen"], "b");
  EXPECT_EQ(row["rejected"], "bc");
  row = Explicit("\"x\\u00e9\"", "\"x\\u00e8\"");  // two bytes each, the first of them equal
  EXPECT_EQ(row["prompt"], "x");
}

TEST(PreferencePrompt, OfConversationsIsTheSharedMessages) {
  const char* question = R"({"role": "user", "content": "q"})";
  const Json row = Explicit(absl::StrCat("[", question, R"(, {"role": "assistant", "content": "a"}])").c_str(),
                            absl::StrCat("[", question, R"(, {"role": "assistant", "content": "b"}])").c_str());
  EXPECT_EQ(row["prompt"].size(), 1u);
  EXPECT_EQ(row["chosen"][0]["content"], "a");
  EXPECT_EQ(row["rejected"][0]["content"], "b");
}

ValidationReport Validate(const std::string& rows, Method method) {
  TempFile file(rows);
  return *ValidateFile(file.path(), method);
}

TEST(PreferenceRows, WithoutPromptAreTheirOwnFormat) {
  const std::string row = R"({"chosen": "p good", "rejected": "p bad"})" "\n";
  EXPECT_EQ(Validate(row, Method::kDpo).format, "implicit_preference");
  EXPECT_EQ(Validate(row, Method::kKto).format, "implicit_preference");
  EXPECT_TRUE(Validate(row, Method::kKto).warnings.empty());
  const ValidationReport apart = Validate(
      R"({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}],)"
      R"( "rejected": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]})" "\n",
      Method::kDpo);
  ASSERT_EQ(apart.error_count, 1);
  EXPECT_EQ(apart.errors[0].reason, "NO_COMMON_PROMPT");
}

TEST(PreferenceRows, OfKtoMayBePairs) {
  const ValidationReport report = Validate(R"({"prompt": "p", "chosen": "a", "rejected": "b"})" "\n", Method::kKto);
  EXPECT_TRUE(report.ok);
  EXPECT_EQ(report.format, "preference");
  EXPECT_TRUE(report.warnings.empty());
}

TEST(PreferenceRows, GiveTwoPreviewsWithOneIndex) {
  TempFile file(R"({"prompt": "p", "chosen": " a", "rejected": " b"})" "\n"
                R"({"prompt": "q", "chosen": " c", "rejected": " d"})" "\n");
  TokenizeOptions options;
  options.method = Method::kDpo;
  const auto rows = PreviewFile(file.path(), FakeTokenizer(), "", options, 1, 1);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].index, 1);
  EXPECT_EQ((*rows)[1].index, 1);
  EXPECT_THAT((*rows)[0].text, HasSubstr("q c"));
  EXPECT_THAT((*rows)[1].text, HasSubstr("q d"));
}

// Rows of one prompt token p and answers p + 10, p + 20.
std::vector<TokenizedRow> FourRows() {
  std::vector<TokenizedRow> rows;
  for (int32_t p = 0; p < 4; ++p) rows.push_back({{p, p + 10, p + 20}, {0, 1, 1}, p + 1, true, {}});
  return rows;
}

std::vector<PackedBatch> Batches(const std::vector<TokenizedRow>& rows, const std::vector<std::vector<int64_t>>& indices) {
  std::vector<PackedBatch> out;
  for (const auto& batch : indices) out.push_back(Pack(rows, batch));
  return out;
}

TEST(MismatchedBatches, RotateWithinABatch) {
  const auto rows = FourRows();
  const auto got = MismatchedBatches(rows, Batches(rows, {{0, 1, 2}}), 16);
  EXPECT_THAT(got[0].input_ids, testing::ElementsAre(0, 12, 22, 1, 10, 20, 2, 11, 21));
  EXPECT_EQ(got[0].num_targets, 6);
  EXPECT_THAT(got[0].rows, testing::ElementsAre(0, 1, 2));
}

TEST(MismatchedBatches, OfOneRowRotateOverTheWindow) {
  const auto rows = FourRows();
  const auto got = MismatchedBatches(rows, Batches(rows, {{3}, {1}, {0}}), 16);
  EXPECT_THAT(got[0].input_ids, testing::ElementsAre(3, 10, 20));
  EXPECT_THAT(got[1].input_ids, testing::ElementsAre(1, 13, 23));
  EXPECT_THAT(got[2].input_ids, testing::ElementsAre(0, 11, 21));
}

TEST(MismatchedBatches, ASingleRowTakesTheAnswerBeforeItInTheFile) {
  const auto rows = FourRows();
  EXPECT_THAT(MismatchedBatches(rows, Batches(rows, {{2}}), 16)[0].input_ids, testing::ElementsAre(2, 11, 21));
  EXPECT_THAT(MismatchedBatches(rows, Batches(rows, {{0}}), 16)[0].input_ids, testing::ElementsAre(0, 13, 23));
}

TEST(MismatchedBatches, UseWhatTruncationCutAndAreTruncatedThemselves) {
  auto rows = FourRows();
  rows[0].cut = {7, 8};
  EXPECT_THAT(MismatchedBatches(rows, Batches(rows, {{0, 1}}), 4)[0].input_ids,
              testing::ElementsAre(0, 11, 21, 1, 10, 20, 7));
}

}  // namespace
}  // namespace finetuned::data
