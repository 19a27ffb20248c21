#include "proto/spec/nearest.h"

#include <gtest/gtest.h>

namespace finetuned::spec {
namespace {

TEST(Nearest, FindsTypicalSlips) {
  const std::vector<std::string> names = {"linear", "cosine", "constant", "learning_rate"};
  EXPECT_EQ(Nearest("lineer", names), "linear");
  EXPECT_EQ(Nearest("cosnie", names), "cosine");
  EXPECT_EQ(Nearest("learnig_rate", names), "learning_rate");
}

TEST(Nearest, GivesNothingForAnotherWord) {
  EXPECT_EQ(Nearest("zebra", {"linear", "cosine"}), "");
  EXPECT_EQ(Nearest("", {"linear"}), "");
  EXPECT_EQ(Nearest(std::string(1000, 'a'), {"linear"}), "");
}

}  // namespace
}  // namespace finetuned::spec
