#include "clients/cli/grpo_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/client.h"

namespace finetuned::cli {
namespace {

using testing::HasSubstr;

v1::GrpoSpec Parse(const std::vector<std::string>& arguments) {
  CLI::App app;
  GrpoFlags flags;
  AddGrpoFlags(&app, &flags);
  app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  v1::GrpoSpec spec;
  FillGrpo(flags, &spec);
  return spec;
}

TEST(GrpoFlags, RewardsHaveWeightsAndArguments) {
  const v1::GrpoSpec spec = Parse({"--reward", "numeric", "--reward", "length*0.1:max=8;slack=16", "--reward",
                                   "regex:pattern=a=b", "--remote-reward", "mine"});
  ASSERT_EQ(spec.builtin_rewards_size(), 3);
  EXPECT_EQ(spec.builtin_rewards(0).name(), "numeric");
  EXPECT_FALSE(spec.builtin_rewards(0).has_weight());
  EXPECT_EQ(spec.builtin_rewards(1).weight(), 0.1);
  EXPECT_EQ(spec.builtin_rewards(1).args().at("slack"), "16");
  EXPECT_EQ(spec.builtin_rewards(2).args().at("pattern"), "a=b");
  EXPECT_EQ(spec.remote_reward().reward_names(0), "mine");
}

TEST(GrpoFlags, WhatIsNotGivenIsLeftToTheDaemon) {
  const v1::GrpoSpec spec = Parse({"--reward", "format"});
  EXPECT_FALSE(spec.has_beta());
  EXPECT_FALSE(spec.has_temperature());
  EXPECT_FALSE(spec.has_remote_reward());
  EXPECT_EQ(spec.group_size(), 0);
}

TEST(GrpoFlags, AWrongRewardIsExplained) {
  for (const char* text : {"*2", "length*x", "length:max", "length:=3"}) {
    try {
      Parse({"--reward", text});
      ADD_FAILURE() << text << " was taken";
    } catch (const CommandError& error) {
      EXPECT_EQ(error.code, kUsage);
      EXPECT_THAT(error.message, HasSubstr("write NAME, NAME*WEIGHT or NAME:KEY=VALUE"));
    }
  }
}

}  // namespace
}  // namespace finetuned::cli
