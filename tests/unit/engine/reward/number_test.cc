#include "engine/reward/number.h"

#include <gtest/gtest.h>

#include <string>

namespace finetuned::reward {
namespace {

TEST(AnswerNumber, ReadsTheNumberAfterTheMark) {
  EXPECT_EQ(AnswerNumber("5 + 3 = 8\n#### 8"), 8);
  EXPECT_EQ(AnswerNumber("#### 1,234,567"), 1234567);
  EXPECT_EQ(AnswerNumber("#### $1,200.50 in total, 3 items"), 1200.5);
  EXPECT_EQ(AnswerNumber("#### 7\nmore #### 9"), 9);
  EXPECT_EQ(AnswerNumber("12 apples\n#### none"), 12);
}

TEST(AnswerNumber, ElseTheLastNumber) {
  EXPECT_EQ(AnswerNumber("First 3, then 4, so it is 12."), 12);
  EXPECT_EQ(AnswerNumber("It costs $2,500."), 2500);
  EXPECT_EQ(AnswerNumber("0.5% of it"), 0.5);
  EXPECT_EQ(AnswerNumber(".25"), 0.25);
  EXPECT_EQ(AnswerNumber("\\boxed{42}"), 42);
  EXPECT_EQ(AnswerNumber("3.14.15"), 0.15);
}

TEST(AnswerNumber, KnowsSignsFromSubtractions) {
  EXPECT_EQ(AnswerNumber("the answer is -4"), -4);
  EXPECT_EQ(AnswerNumber("-$4"), -4);
  EXPECT_EQ(AnswerNumber("\xe2\x88\x92"
                         "4"),
            -4);
  EXPECT_EQ(AnswerNumber("7-3"), 3);
  EXPECT_EQ(AnswerNumber("(2)-3"), 3);
}

TEST(AnswerNumber, TellsSeparatorsFromLists) {
  EXPECT_EQ(AnswerNumber("1,2"), 2);
  EXPECT_EQ(AnswerNumber("1,2345"), 2345);
  EXPECT_EQ(AnswerNumber("1,234,"), 1234);
}

TEST(AnswerNumber, FindsNothing) {
  EXPECT_FALSE(AnswerNumber(""));
  EXPECT_FALSE(AnswerNumber("no number - at all."));
  EXPECT_FALSE(AnswerNumber(std::string(1000, '9')));
}

}  // namespace
}  // namespace finetuned::reward
