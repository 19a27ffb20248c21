#include "clients/cli/text_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cli/client.h"

namespace finetuned::cli {
namespace {

std::vector<std::string> Rows(const std::string& text) {
  return absl::StrSplit(TextAsRows(text, "book.txt"), '\n', absl::SkipEmpty());
}

TEST(TextRows, ShortTextIsOneRow) {
  EXPECT_THAT(Rows("He said \"no\".\n\nThen left.\n"),
              testing::ElementsAre(R"({"text":"He said \"no\".\n\nThen left.\n"})"));
}

TEST(TextRows, LongTextIsCutAtLinesAndNothingIsLost) {
  std::string line(1000, 'x'), text;
  for (int i = 0; i < 300; ++i) absl::StrAppend(&text, line, "\n");
  size_t letters = 0;
  const auto rows = Rows(text);
  EXPECT_EQ(rows.size(), 3u);
  for (const std::string& row : rows) {
    EXPECT_LE(row.size(), (size_t{128} << 10) + 1000);
    EXPECT_TRUE(row.ends_with("x\\n\"}")) << row.substr(row.size() - 10);
    letters += std::count(row.begin(), row.end(), 'x') - 1;  // one is in "text"
  }
  EXPECT_EQ(letters, 300'000u);
}

TEST(TextRows, ALineLongerThanARowStaysWhole) {
  const std::string line(200 << 10, 'x');
  EXPECT_EQ(Rows(absl::StrCat("short\n", line, "\nshort\n")).size(), 3u);
}

TEST(TextRows, WhatIsNoTextIsNamed) {
  EXPECT_THROW(TextAsRows("", "empty.txt"), CommandError);
}

}  // namespace
}  // namespace finetuned::cli
