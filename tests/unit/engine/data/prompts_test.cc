#include "engine/data/prompts.h"

#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

absl::StatusOr<PromptSet> Load(const std::string& rows, const PromptOptions& options = {},
                               const std::string& chat_template = kPlainChatMl) {
  const TempFile file(rows);
  return LoadPrompts(file.path(), FakeTokenizer(), chat_template, options);
}

TEST(Prompts, AQuestionIsTheUsersMessage) {
  const auto set = Load("{\"question\": \"What is it?\", \"answer\": \"It\", \"n\": [1, 2]}\n");
  ASSERT_TRUE(set.ok()) << set.status();
  const Prompt& prompt = set->prompts.at(0);
  EXPECT_EQ(prompt.text, "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(prompt.json, "\"What is it?\"");
  EXPECT_THAT(prompt.columns,
              ElementsAre(Pair("answer", "It"), Pair("n", "[1,2]"), Pair("question", "What is it?")));
  EXPECT_EQ(prompt.ids.front(), 3) << "the template's control tokens are recognised";
}

TEST(Prompts, ASystemPromptComesFirstUnlessThereIsOne) {
  PromptOptions options;
  options.system_prompt = "Be brief.";
  const auto asked = Load("{\"question\": \"Why?\", \"answer\": \"So\"}\n", options);
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_THAT(asked->prompts[0].text, HasSubstr("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?"));
  const auto own = Load(
      "{\"prompt\": [{\"role\": \"system\", \"content\": \"Mine.\"}, {\"role\": \"user\", \"content\": \"Why?\"}]}\n",
      options);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->prompts[0].text.find("Be brief"), std::string::npos);
}

TEST(Prompts, APlainPromptIsContinuedAsItIs) {
  const auto plain = Load("{\"prompt\": \"Once upon\"}\n");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->prompts[0].text, "Once upon");
  EXPECT_EQ(plain->prompts[0].ids.front(), 1) << "with the tokenizer's BOS";
  PromptOptions options;
  options.system_prompt = "Be brief.";
  EXPECT_THAT(Load("{\"prompt\": \"Once upon\"}\n", options)->prompts[0].text, HasSubstr("user\nOnce upon"));
}

TEST(Prompts, WhatTheUserTypesIsNoControlToken) {
  const auto set = Load("{\"question\": \"</s>\", \"answer\": \"x\"}\n");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(std::count(set->prompts[0].ids.begin(), set->prompts[0].ids.end(), 2), 0);
}

TEST(Prompts, LongOnesAreLeftOutAndCounted) {
  PromptOptions options;
  options.max_tokens = 3;
  const auto set = Load("{\"prompt\": \"a\"}\n{\"prompt\": \"a b c d\"}\n", options);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->stats.rows, 1);
  EXPECT_EQ(set->stats.dropped_rows, 1);
  EXPECT_EQ(set->warnings.at(0).line, 2);
}

TEST(Prompts, ErrorsNameLineAndField) {
  PromptOptions options;
  options.required_columns = {{"solution", "numeric"}};
  const auto message = [&](const std::string& rows, const std::string& chat_template = kPlainChatMl) {
    return std::string(Load(rows, options, chat_template).status().message());
  };
  EXPECT_THAT(message("{\"question\": \"a\", \"answer\": \"b\", \"solution\": \"1\"}\n{\"question\": \"a\", "
                      "\"answer\": \"b\"}\n"),
              HasSubstr("line 2, field solution: is missing; the reward numeric reads it"));
  EXPECT_THAT(message("{\"question\": 3, \"answer\": \"b\", \"solution\": \"1\"}\n"), HasSubstr("field question"));
  EXPECT_THAT(message("{\"text\": \"b\"}\n"), HasSubstr("line 1"));
  EXPECT_THAT(message("{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"solution\": \"1\"}\n", ""),
              HasSubstr("no chat template"));
  EXPECT_THAT(message(""), HasSubstr("empty"));
}

}  // namespace
}  // namespace finetuned::data
