#include "engine/text/gguf_tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "tests/unit/engine/format/test_files.h"

namespace finetuned::text {
namespace {

using format::ReadFile;

constexpr char kTexts[][80] = {"Hello, world! 12345", "  two  spaces\n\nand lines ", "naïve café, 你好 🙂", "don't we'll", ""};

std::string Golden(const std::string& name) {
  return ReadFile(std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/text/" + name);
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text) {
  const auto tokens = tokenizer.Encode(text);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  std::vector<int32_t> ids;
  if (tokens.ok()) {
    for (const Token& token : *tokens) ids.push_back(token.id);
  }
  return ids;
}

// tokenizer.json -> GGUF -> tokenizer.json: all three split alike.
void ExpectSameTokens(const std::string& json) {
  const auto original = TokenizerFromJson(json);
  ASSERT_TRUE(original.ok()) << original.status();
  const auto vocabulary = GgufVocabularyOfJson(json, **original, (*original)->vocabulary_size() + 3);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->tokens.back(), "[PAD" + std::to_string((*original)->vocabulary_size() + 2) + "]");
  const auto gguf = TokenizerFromGguf(*vocabulary);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto texts = TokenizerJsonOfGguf(*vocabulary, "{{ messages }}");
  ASSERT_TRUE(texts.ok()) << texts.status();
  const auto again = TokenizerFromJson(texts->tokenizer_json, texts->tokenizer_config_json);
  ASSERT_TRUE(again.ok()) << again.status();
  for (const char* text : kTexts) {
    EXPECT_EQ(Ids(**gguf, text), Ids(**original, text)) << text;
    EXPECT_EQ(Ids(**again, text), Ids(**original, text)) << text;
  }
  EXPECT_EQ(nlohmann::json::parse(texts->tokenizer_config_json)["chat_template"], "{{ messages }}");
}

// GGUF knows neither a space put before texts nor NFC with these pre-tokenizers.
std::string WithoutPrefixAndNormalizer(const std::string& json) {
  nlohmann::json changed = nlohmann::json::parse(json);
  changed["normalizer"] = nullptr;
  if (changed["pre_tokenizer"].contains("add_prefix_space")) changed["pre_tokenizer"]["add_prefix_space"] = false;
  return changed.dump();
}

TEST(GgufTokenizerJson, ByteLevelVocabularyComesBack) {
  ExpectSameTokens(WithoutPrefixAndNormalizer(Golden("bytes_gpt2.tokenizer.json")));
}

TEST(GgufTokenizerJson, ByteLevelVocabularyWithDigitsComesBack) {
  ExpectSameTokens(WithoutPrefixAndNormalizer(Golden("bytes_digits.tokenizer.json")));
}

TEST(GgufTokenizerJson, DigitsAndNfcAreCommandR) {
  nlohmann::json changed = nlohmann::json::parse(WithoutPrefixAndNormalizer(Golden("bytes_digits.tokenizer.json")));
  changed["normalizer"] = {{"type", "NFC"}};
  ExpectSameTokens(changed.dump());
  const auto tokenizer = TokenizerFromJson(changed.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto vocabulary = GgufVocabularyOfJson(changed.dump(), **tokenizer, (*tokenizer)->vocabulary_size());
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->pre, "command-r");
}

// Phi 4 mini, whose pre-tokenizer splits words by case.
TEST(GgufTokenizerJson, SplitsByCaseAreGpt4o) {
  GgufVocabulary named;
  named.model = "gpt2";
  named.pre = "gpt-4o";
  named.tokens = {"a", "b", "A", "B", "ab", "bA"};
  named.types.assign(named.tokens.size(), 1);
  named.merges = {"a b", "b A"};
  const auto texts = TokenizerJsonOfGguf(named, "");
  ASSERT_TRUE(texts.ok()) << texts.status();
  const auto tokenizer = TokenizerFromJson(texts->tokenizer_json, texts->tokenizer_config_json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Ids(**tokenizer, "abAB"), (std::vector<int32_t>{4, 2, 3}));
  EXPECT_EQ(Ids(**tokenizer, "bAb"), (std::vector<int32_t>{1, 2, 1}));  // "bA" would cross a border
  const auto vocabulary = GgufVocabularyOfJson(texts->tokenizer_json, **tokenizer, (*tokenizer)->vocabulary_size());
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->pre, "gpt-4o");
}

TEST(GgufTokenizerJson, SentencePieceVocabularyComesBack) { ExpectSameTokens(Golden("spm.tokenizer.json")); }

TEST(GgufTokenizerJson, APreTokenizerWithoutNameInGgufIsRefused) {
  const std::string json = Golden("split_regex.tokenizer.json");
  nlohmann::json changed = nlohmann::json::parse(json);
  changed["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "x+"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const auto original = TokenizerFromJson(changed.dump());
  ASSERT_TRUE(original.ok()) << original.status();
  const auto vocabulary = GgufVocabularyOfJson(changed.dump(), **original, (*original)->vocabulary_size());
  EXPECT_TRUE(absl::IsUnimplemented(vocabulary.status())) << vocabulary.status();
}

}  // namespace
}  // namespace finetuned::text
