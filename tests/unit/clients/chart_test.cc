#include "clients/cli/chart.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finetuned::cli {
namespace {

using ::testing::HasSubstr;

ChartOptions Small() { return {40, 9, false, "step"}; }

TEST(DrawChart, FallingLineGoesFromTopLeftToBottomRight) {
  const auto lines = DrawChart({{"loss", {1, 2, 3, 4}, {4, 3, 2, 1}}}, Small(), Style{});
  ASSERT_EQ(lines.size(), 9u);
  EXPECT_EQ(lines[0], "         4 ┤⠉⠒⠤⣀" + std::string(24, ' '));
  EXPECT_EQ(lines[5], "         1 ┤" + std::string(24, ' ') + "⠉⠒⠤⣀");
  EXPECT_THAT(lines[7], HasSubstr("1"));
  EXPECT_THAT(lines[7], HasSubstr("step 4"));
  EXPECT_THAT(lines[8], HasSubstr("━━ loss 1"));
}

TEST(DrawChart, EveryLineFitsItsWidth) {
  for (const auto& line : DrawChart({{"a", {1, 1000}, {1e-9, 3e12}}, {"b", {5}, {-1}}}, Small(), Style{true})) {
    EXPECT_LE(DisplayWidth(line), 40) << line;
  }
}

TEST(DrawChart, SkipsWhatIsNotFiniteAndWhatALogarithmCannotShow) {
  EXPECT_EQ(DrawChart({{"a", {1, 2}, {std::nan(""), INFINITY}}}, Small(), Style{}),
            std::vector<std::string>{"no data"});
  ChartOptions log = Small();
  log.log_y = true;
  EXPECT_EQ(DrawChart({{"a", {1, 2}, {0, -1}}}, log, Style{}), std::vector<std::string>{"no data"});
  EXPECT_THAT(DrawChart({{"a", {1, 2, 3}, {1, 0, 100}}}, log, Style{})[0], HasSubstr("100 ┤"));
}

TEST(DrawChart, FlatLineLiesInTheMiddle) {
  const auto lines = DrawChart({{"a", {1, 2}, {5, 5}}}, {40, 10, false, ""}, Style{});
  EXPECT_THAT(lines[3], HasSubstr("⠤⠤⠤⠤"));
}

}  // namespace
}  // namespace finetuned::cli
