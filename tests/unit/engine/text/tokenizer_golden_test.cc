// Ids, offsets and decoded text equal to the `tokenizers` library (tests/golden/text/make_goldens.py).

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/format/model_source.h"
#include "engine/text/tokenizer.h"

namespace finetuned::text {
namespace {

using nlohmann::json;

std::string ReadGolden(const std::string& name) {
  std::ifstream in(FINETUNED_SOURCE_DIR "/tests/golden/text/" + name, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Offsets may differ from the reference where normal forms compose (ours cover base and mark, the
// reference only the base) and for a word mark that stands alone.
void Compare(const Tokenizer& tokenizer, const json& golden, bool offsets) {
  int different_offsets = 0, tokens = 0;
  for (const json& row : golden) {
    const std::string text = row[0];
    const auto encoded = tokenizer.Encode(text);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    std::vector<int32_t> ids;
    for (const Token& t : *encoded) ids.push_back(t.id);
    EXPECT_EQ(ids, row[1].get<std::vector<int32_t>>()) << json(text);
    EXPECT_EQ(tokenizer.Decode(row[1].get<std::vector<int32_t>>()), row[3].get<std::string>()) << json(text);
    if (ids.size() != row[1].size()) continue;
    for (size_t i = 0; i < ids.size(); ++i) {
      ++tokens;
      const ByteRange& b = (*encoded)[i].bytes;
      EXPECT_LE(b.begin, b.end);
      EXPECT_LE(b.end, text.size());
      different_offsets += b.begin != row[2][i][0].get<size_t>() || b.end != row[2][i][1].get<size_t>();
    }
  }
  if (offsets) EXPECT_EQ(different_offsets, 0) << "of " << tokens;
}

class TokenizerJson : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerJson, EqualsTheReference) {
  const std::string name = GetParam();
  const auto tokenizer = TokenizerFromJson(ReadGolden(name + ".tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer, json::parse(ReadGolden(name + ".json")), /*offsets=*/false);
}

INSTANTIATE_TEST_SUITE_P(Goldens, TokenizerJson,
                         ::testing::Values("bytes_gpt2", "bytes_digits", "split_regex", "metaspace", "spm",
                                           "punctuation", "whitespace"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TokenizerGguf, SmolLm2EqualsTheReference) {
  const std::string path = FINETUNED_DEPS_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not installed";
  const auto model = format::OpenModel(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = (*model)->LoadTokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 49152);
  EXPECT_EQ((*tokenizer)->bos(), 1);
  EXPECT_EQ((*tokenizer)->eos(), 2);
  Compare(**tokenizer, json::parse(ReadGolden("smollm2.json")), /*offsets=*/false);
}

}  // namespace
}  // namespace finetuned::text
