#include "clients/cli/term.h"

#include <cmath>

#include <gtest/gtest.h>

namespace finetuned::cli {
namespace {

TEST(FormatBytes, PicksTheUnit) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1500), "1.50 kB");
  EXPECT_EQ(FormatBytes(3.21e9), "3.21 GB");
  EXPECT_EQ(FormatBytes(5e15), "5000.00 TB");
}

TEST(FormatDuration, ReadsAsPeopleSayIt) {
  EXPECT_EQ(FormatDuration(0.42), "0.4s");
  EXPECT_EQ(FormatDuration(59.4), "59s");
  EXPECT_EQ(FormatDuration(130), "2m 10s");
  EXPECT_EQ(FormatDuration(3780), "1h 03m");
  EXPECT_EQ(FormatDuration(90000), "1d 01h");
  EXPECT_EQ(FormatDuration(std::nan("")), "-");
}

TEST(FormatCount, SeparatesThousands) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatCount(-1234), "-1,234");
}

TEST(Sparkline, SpansItsRange) {
  EXPECT_EQ(Sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(Sparkline({3, 3}, 8), "▅▅");
  EXPECT_EQ(DisplayWidth(Sparkline(std::vector<double>(1000, 1.0), 20)), 20);
}

TEST(Sparkline, LeavesOutWhatIsNotFinite) {
  EXPECT_EQ(Sparkline({std::nan(""), 0, INFINITY, 1}, 8), "▁█");
  EXPECT_EQ(Sparkline({}, 8), "");
}

TEST(ProgressBar, IsFullOnlyAtTheEnd) {
  EXPECT_EQ(ProgressBar(0, 4), "░░░░");
  EXPECT_EQ(ProgressBar(0.99, 4), "███░");
  EXPECT_EQ(ProgressBar(1, 4), "████");
  EXPECT_EQ(ProgressBar(7, 4), "████");
}

TEST(Table, AlignsByDisplayWidth) {
  EXPECT_EQ(Table({{"A", "B"}, {"äö", "x"}}), "A   B\näö  x\n");
  EXPECT_EQ(DisplayWidth("\033[32mgreen\033[0m"), 5);
}

TEST(Printable, TakesTheSteeringOutOfControlCharacters) {
  EXPECT_EQ(Printable("a\033[2Jb\tc\n"), "a\\x1b[2Jb\tc\n");
  EXPECT_EQ(Printable("Grüße"), "Grüße");
}

}  // namespace
}  // namespace finetuned::cli
