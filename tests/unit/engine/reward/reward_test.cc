#include "engine/reward/reward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "engine/reward/reward_set.h"

namespace finetuned::reward {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Args = std::map<std::string, std::string>;

Score Evaluate(const std::string& name, const Args& args, const std::string& completion,
               const std::map<std::string, std::string>& columns = {}, int64_t tokens = 0) {
  const auto reward = MakeReward(name, args);
  EXPECT_TRUE(reward.ok()) << reward.status();
  if (!reward.ok()) return Score::Abstain("not made");
  return (*reward)->Evaluate({completion, tokens, false, &columns});
}

std::string Problem(const std::string& name, const Args& args) {
  return std::string(MakeReward(name, args).status().message());
}

TEST(Reward, ExactComparesStrippedTexts) {
  EXPECT_EQ(Evaluate("exact", {}, " Paris\n", {{"answer", "Paris"}}).value, 1);
  EXPECT_EQ(Evaluate("exact", {}, "paris", {{"answer", "Paris"}}).value, 0);
  EXPECT_EQ(Evaluate("exact", {{"ignore_case", "true"}}, "paris", {{"answer", "Paris"}}).value, 1);
  const Args tagged = {{"column", "solution"}, {"pattern", "<answer>(.*?)</answer>"}};
  EXPECT_EQ(
      Evaluate("exact", tagged, "<answer>a</answer> <answer>b</answer>", {{"solution", "b"}}).value,
      1);
  EXPECT_EQ(Evaluate("exact", tagged, "b", {{"solution", "b"}}).value, 0);
}

TEST(Reward, NumericComparesAsGsm8kGradersDo) {
  const std::map<std::string, std::string> gold = {{"answer", "6 * 3 = 18\n#### 18"}};
  EXPECT_EQ(Evaluate("numeric", {}, "So the answer is $18.00.", gold).value, 1);
  EXPECT_EQ(Evaluate("numeric", {}, "#### 18\nThat took 2 steps.", gold).value, 1);
  EXPECT_EQ(Evaluate("numeric", {}, "19", gold).value, 0);
  EXPECT_EQ(Evaluate("numeric", {}, "no idea", gold).value, 0);
  EXPECT_EQ(Evaluate("numeric", {{"tolerance", "0.1"}}, "19", gold).value, 1);
  const Score score = Evaluate("numeric", {}, "18", {{"answer", "many"}});
  EXPECT_TRUE(std::isnan(score.value));
  EXPECT_THAT(score.abstained, HasSubstr("holds no number"));
}

TEST(Reward, RegexSearchesOrMatchesAll) {
  EXPECT_EQ(Evaluate("regex", {{"pattern", "\\d+"}}, "a 12").value, 1);
  EXPECT_EQ(Evaluate("regex", {{"pattern", "\\d+"}, {"full_match", "true"}}, "a 12").value, 0);
}

TEST(Reward, RegexTakesLinearTime) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Evaluate("regex", {{"pattern", "(a+)+$"}}, std::string(200'000, 'a') + "b").value, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Reward, JsonSchemaWantsJsonThatFits) {
  const Args args = {{"schema", R"({"type": "object", "required": ["a"]})"}};
  EXPECT_EQ(Evaluate("json_schema", args, " {\"a\": 1}\n").value, 1);
  EXPECT_EQ(Evaluate("json_schema", args, "{\"b\": 1}").value, 0);
  EXPECT_EQ(Evaluate("json_schema", args, "Here: {\"a\": 1}").value, 0);
  EXPECT_EQ(Evaluate("json_schema", {{"fenced", "true"}}, "Here:\n```json\n[1]\n```").value, 1);
  EXPECT_EQ(Evaluate("json_schema", {{"fenced", "true"}}, "[1]").value, 0);
  EXPECT_EQ(Evaluate("json_schema", {}, std::string(100'000, '[')).value, 0) << "depth is bounded";
}

TEST(Reward, LengthFallsOffBeyondTheLimits) {
  const Args args = {{"max", "80"}, {"slack", "20"}};
  EXPECT_EQ(Evaluate("length", args, "", {}, 80).value, 1);
  EXPECT_EQ(Evaluate("length", args, "", {}, 90).value, 0.5)
      << "TRL's soft overlong punishment, plus 1";
  EXPECT_EQ(Evaluate("length", args, "", {}, 101).value, 0);
  EXPECT_EQ(Evaluate("length", {{"min", "2"}, {"unit", "words"}}, " two words ").value, 1);
  EXPECT_EQ(Evaluate("length", {{"max", "2"}, {"unit", "characters"}}, "\xc3\xa4\xc3\xb6").value,
            1);
}

TEST(Reward, FormatIsTrlsThinkFormat) {
  EXPECT_EQ(
      Evaluate("format", {}, "<think>\nThis is my reasoning.\n</think>\nThis is my answer.").value,
      1);
  EXPECT_EQ(Evaluate("format", {}, "<think>\nThis is my reasoning.\nThis is my answer.").value, 0);
  EXPECT_EQ(Evaluate("format", {}, "Well. <think>a</think>").value, 0);
  EXPECT_EQ(Evaluate("format", {}, "<think>a<think>b</think>").value, 0);
  const Args both = {{"style", "think_answer"}};
  EXPECT_EQ(Evaluate("format", both, "<think>a</think>\n<answer>b</answer>\n").value, 1);
  EXPECT_EQ(Evaluate("format", both, "<think>a</think>b<answer>b</answer>").value, 0);
  EXPECT_EQ(Evaluate("format", both, "<think>a</think><answer>b</answer>c").value, 0);
}

TEST(Reward, LongCompletionsGetNoScore) {
  const Score score =
      Evaluate("regex", {{"pattern", "a"}}, std::string(kMaxCompletionBytes + 1, 'a'));
  EXPECT_TRUE(std::isnan(score.value));
  EXPECT_THAT(score.abstained, HasSubstr("the limit is 1048576"));
}

TEST(Reward, SaysWhatIsWrongWithItsArguments) {
  EXPECT_THAT(Problem("numerc", {}), HasSubstr("did you mean numeric?"));
  EXPECT_THAT(
      Problem("numeric", {{"colum", "a"}}),
      HasSubstr("reward numeric, argument colum: is unknown; the reward takes column, pattern, "
                "tolerance; did you mean column?"));
  EXPECT_THAT(Problem("numeric", {{"tolerance", "much"}}), HasSubstr("must be a number"));
  EXPECT_THAT(Problem("exact", {{"pattern", "a"}}), HasSubstr("needs 1 capturing group"));
  EXPECT_THAT(Problem("exact", {{"ignore_case", "maybe"}}), HasSubstr("true or false"));
  EXPECT_THAT(Problem("regex", {}), HasSubstr("argument pattern: is required"));
  EXPECT_THAT(Problem("regex", {{"pattern", "a(?=b)"}}), HasSubstr("no pattern of RE2"));
  EXPECT_THAT(Problem("regex", {{"pattern", std::string(kMaxArgumentBytes + 1, 'a')}}),
              HasSubstr("the limit is 65536"));
  EXPECT_THAT(Problem("length", {}), HasSubstr("is required"));
  EXPECT_THAT(Problem("length", {{"min", "3"}, {"max", "2"}}), HasSubstr("is above max"));
  EXPECT_THAT(Problem("format", {{"style", "thnk"}}), HasSubstr("did you mean think?"));
  EXPECT_THAT(Problem("json_schema", {{"schema", "{\"$ref\": \"#\"}"}}),
              HasSubstr("not supported"));
}

TEST(RewardSet, EvaluatesAllAndCountsAbstentions) {
  const auto set = RewardSet::Make({{"numeric", 1, {}},
                                    {"regex", 0.5, {{"pattern", "a"}}},
                                    {"regex", 0.25, {{"pattern", "b"}}}});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->names(), ElementsAre("numeric", "regex", "regex_2"));
  EXPECT_THAT(set->columns(), ElementsAre(testing::Pair("answer", "numeric")));
  const std::map<std::string, std::string> row = {{"answer", "3"}}, bad;
  const std::vector<Item> items = {{"a 3", 1, false, &row}, {"b", 1, false, &bad}};
  std::map<std::string, int64_t> abstained;
  const std::vector<double> scores = set->Evaluate(items, &abstained);
  ASSERT_EQ(scores.size(), 6);
  EXPECT_EQ(scores[0], 1);
  EXPECT_EQ(scores[1], 1);
  EXPECT_EQ(scores[2], 0);
  EXPECT_TRUE(std::isnan(scores[3]));
  EXPECT_EQ(scores[5], 1);
  EXPECT_THAT(abstained,
              ElementsAre(testing::Pair("numeric: the row has no column \"answer\"", 1)));
}

TEST(RewardSet, RefusesAWeightThatIsNoNumber) {
  const double infinite = std::numeric_limits<double>::infinity();
  EXPECT_THAT(std::string(RewardSet::Make({{"format", infinite, {}}}).status().message()),
              HasSubstr("weight is inf"));
}

}  // namespace
}  // namespace finetuned::reward
