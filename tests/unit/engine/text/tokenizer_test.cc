#include "engine/text/tokenizer.h"

#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace finetuned::text {
namespace {

using ::testing::HasSubstr;
using nlohmann::json;

std::string ReadGolden(const std::string& name) {
  std::ifstream in(FINETUNED_SOURCE_DIR "/tests/golden/text/" + name, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::shared_ptr<const Tokenizer> Bytes() { return *TokenizerFromJson(ReadGolden("bytes_digits.tokenizer.json")); }

std::vector<int32_t> Ids(const Tokenizer& t, std::string_view text, const EncodeOptions& options = {}) {
  std::vector<int32_t> ids;
  const auto tokens = t.Encode(text, options);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  for (const Token& token : *tokens) ids.push_back(token.id);
  return ids;
}

TEST(Tokenizer, BytesOfTokensCoverTheText) {
  const std::string text = "Grüße, don't 123 日本 <|im_end|> fox\n";
  const auto tokens = Bytes()->Encode(text);
  size_t at = 0;
  for (const Token& t : *tokens) {
    EXPECT_EQ(t.bytes.begin, at);
    at = t.bytes.end;
  }
  EXPECT_EQ(at, text.size());
}

TEST(Tokenizer, LiteralTextHoldsNoControlTokens) {
  const auto t = Bytes();
  const int32_t end = *t->TokenToId("<|im_end|>");
  const std::string text = "a<|im_end|>b<|im_end|>";
  const std::vector<int32_t> both = Ids(*t, text);
  EXPECT_EQ(std::count(both.begin(), both.end(), end), 2);
  const ByteRange user[] = {{0, 12}};
  const std::vector<int32_t> ids = Ids(*t, text, {.literal = user});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
  EXPECT_EQ(ids.back(), end);
  EXPECT_EQ(t->Decode(ids), text);
}

TEST(Tokenizer, ControlTokensThatOnlyTouchLiteralTextStay) {
  const auto t = Bytes();
  const std::string text = "<|im_end|>";
  const ByteRange inner[] = {{2, 8}};  // the name came from a user, the frame from the template
  EXPECT_EQ(Ids(*t, text, {.literal = inner}), std::vector<int32_t>{*t->TokenToId("<|im_end|>")});
}

TEST(Tokenizer, PostProcessorRunsOnlyWhenAsked) {
  const auto t = *TokenizerFromJson(ReadGolden("spm.tokenizer.json"));
  const auto plain = Ids(*t, "hello"), around = Ids(*t, "hello", {.add_special_tokens = true});
  ASSERT_EQ(around.size(), plain.size() + 2);
  EXPECT_EQ(around.front(), 1);
  EXPECT_EQ(around.back(), 2);
}

TEST(Tokenizer, SpecialTokensAreLeftOutOnRequest) {
  const auto t = Bytes();
  const auto ids = Ids(*t, "a<|im_end|>b");
  EXPECT_EQ(t->Decode(ids), "a<|im_end|>b");
  EXPECT_EQ(t->Decode(ids, /*skip_special=*/true), "ab");
}

TEST(Tokenizer, IdsOutOfRangeAreSkipped) {
  const int32_t ids[] = {-1, 1 << 30, *Bytes()->TokenToId("a")};
  EXPECT_EQ(Bytes()->Decode(ids), "a");
}

TEST(Tokenizer, InvalidUtf8IsAnErrorWithItsOffset) {
  EXPECT_THAT(std::string(Bytes()->Encode("ab\xC3\x28").status().message()), HasSubstr("at byte 2"));
}

TEST(Tokenizer, LongTextsTakeLinearTime) {
  EXPECT_GT(Ids(*Bytes(), std::string(1 << 20, 'a')).size(), 1000u);
}

TEST(Tokenizer, ThreadsGiveTheSameIds) {
  const auto t = Bytes();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back("text " + std::to_string(i * 37) + " fox don't");
  std::vector<std::vector<int32_t>> expected;
  for (const auto& text : texts) expected.push_back(Ids(*t, text));
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(Ids(*t, texts[i]), expected[i]);
    });
  }
  for (auto& thread : threads) thread.join();
}

std::string JsonError(const json& j) {
  const auto t = TokenizerFromJson(j.dump());
  return t.ok() ? "no error" : std::string(t.status().message());
}

json Minimal() {
  return {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}}};
}

TEST(TokenizerFromJson, MinimalFileWorks) {
  EXPECT_EQ(Ids(**TokenizerFromJson(Minimal().dump()), "abab"), (std::vector<int32_t>{2, 2}));
}

TEST(TokenizerFromJson, ErrorsNameThePlace) {
  json j = Minimal();
  j["model"]["type"] = "Unigram";
  EXPECT_THAT(JsonError(j), HasSubstr("model.type Unigram is not supported"));
  j = Minimal();
  j["model"]["merges"] = {"a c"};
  EXPECT_THAT(JsonError(j), HasSubstr("model.merges[0] \"a c\" uses a token that is not in the vocabulary"));
  j = Minimal();
  j["model"]["merges"] = {7};
  EXPECT_THAT(JsonError(j), HasSubstr("model.merges[0] must be"));
  j = Minimal();
  j["model"]["vocab"]["c"] = -1;
  EXPECT_THAT(JsonError(j), HasSubstr("model.vocab[\"c\"]"));
  j = Minimal();
  j["added_tokens"] = json::array({{{"content", "x"}, {"id", 1ll << 40}}});
  EXPECT_THAT(JsonError(j), HasSubstr("added_tokens[0].id"));
  j = Minimal();
  j["normalizer"] = {{"type", "Precompiled"}};
  EXPECT_THAT(JsonError(j), HasSubstr("normalizer Precompiled is not supported"));
  j = Minimal();
  j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(("}}}, {"behavior", "Isolated"}};
  EXPECT_THAT(JsonError(j), HasSubstr("pattern \"((\""));
  EXPECT_THAT(JsonError(json::array()), HasSubstr("must be a JSON object"));
  EXPECT_FALSE(TokenizerFromJson("{").ok());
}

TEST(TokenizerFromJson, NestingIsLimited) {
  json j = Minimal();
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 100; ++i) nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  j["normalizer"] = nested;
  EXPECT_THAT(JsonError(j), HasSubstr("nested too deep"));
}

TEST(TokenizerFromJson, MutatedFilesNeverCrash) {
  const std::string good = ReadGolden("whitespace.tokenizer.json");
  std::mt19937 rng(3);
  for (int i = 0; i < 1500; ++i) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) bad[rng() % bad.size()] = static_cast<char>(rng() % 256);
    const auto t = TokenizerFromJson(bad);
    if (t.ok()) (void)(*t)->Encode("hello fox 12");
  }
}

TEST(TokenizerFromGguf, ErrorsNameTheKey) {
  GgufVocabulary v;
  const auto error = [&] { return std::string(TokenizerFromGguf(v).status().message()); };
  EXPECT_THAT(error(), HasSubstr("tokenizer.ggml.tokens is empty"));
  v.tokens = {"a", "b"};
  v.model = "bert";
  EXPECT_THAT(error(), HasSubstr("tokenizer.ggml.model \"bert\" is not supported"));
  v.model = "gpt2";
  v.pre = "unheard-of";
  EXPECT_THAT(error(), HasSubstr("tokenizer.ggml.pre \"unheard-of\" is not supported"));
  v.pre = "default";
  v.eos = 9;
  EXPECT_THAT(error(), HasSubstr("eos_token_id 9 is outside"));
  v.eos.reset();
  v.merges = {"ab"};
  EXPECT_THAT(error(), HasSubstr("tokenizer.ggml.merges[0]"));
}

}  // namespace
}  // namespace finetuned::text
