// Ids and masks of real rows with SmolLM2's tokenizer equal those of transformers and TRL.
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/data/row_hash.h"
#include "engine/format/model_source.h"
#include "engine/format/sha256.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using nlohmann::json;

class RealTokenizer : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path =
        std::string(FINETUNED_DEPS_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    SKIP_WITHOUT(path);
    SKIP_WITHOUT(SharedData("sft/chat.jsonl"));
    const auto model = format::OpenModel(path);
    ASSERT_TRUE(model.ok()) << model.status();
    const auto tokenizer = (*model)->LoadTokenizer();
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
    chat_template_ = (*model)->chat_template();
    golden_ =
        json::parse(ReadAll(std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/data/masks.json"));
  }

  static std::string Template(const std::string& name) {
    return ReadAll(std::string(FINETUNED_SOURCE_DIR) + "/engine/text/templates/" + name);
  }

  static TokenizeOptions Long() {
    TokenizeOptions options;
    options.max_seq_length = 1 << 20;
    return options;
  }

  // [tokens, trained tokens, hash] as the golden has it.
  static json Summary(const TokenizedRow& row) {
    std::string text;
    for (size_t i = 0; i < row.input_ids.size(); ++i) {
      absl::StrAppend(&text, i ? "," : "", row.input_ids[i]);
    }
    text += '|';
    int64_t trained = 0;
    for (uint8_t bit : row.trained) {
      text += bit ? '1' : '0';
      trained += bit;
    }
    return {row.input_ids.size(), trained, format::Sha256Hex(text).substr(0, 16)};
  }

  void ExpectRows(const std::string& path, const std::string& chat_template, const json& rows) {
    const auto dataset = TokenizeFile(path, *tokenizer_, chat_template, Long(), 2);
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    ASSERT_EQ(dataset->rows.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(Summary(dataset->rows[i]), rows[i]) << path << " line " << dataset->rows[i].line;
    }
  }

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::string chat_template_;
  json golden_;
};

TEST_F(RealTokenizer, ConversationsHaveTheMasksOfTransformers) {
  ASSERT_EQ(golden_["conversations"].size(), 4u);
  for (const json& one : golden_["conversations"]) {
    ExpectRows(SharedData("sft/" + one["file"].get<std::string>()), Template(one["template"]),
               one["rows"]);
  }
}

TEST_F(RealTokenizer, PromptAndCompletionStringsHaveTheMasksOfTrl) {
  std::ifstream in(SharedData("sft/identity.jsonl"));
  std::string content;
  for (std::string line; std::getline(in, line);) {
    const json messages = json::parse(line)["messages"];
    content += json{{"prompt", messages[0]["content"].get<std::string>() + "\n"},
                    {"completion", messages[1]["content"]}}
                   .dump() +
               "\n";
  }
  TempFile file(content);
  ExpectRows(file.path(), chat_template_, golden_["completions"]);
}

TEST_F(RealTokenizer, PromptAndCompletionMessagesHaveTheMasksOfTrl) {
  std::ifstream in(SharedData("sft/chat.jsonl"));
  std::string content;
  for (std::string line; std::getline(in, line);) {
    text::Json messages = text::Json::parse(line)["messages"];
    text::Json row;
    row["completion"] = text::Json::array({messages.back()});
    messages.erase(messages.size() - 1);
    row["prompt"] = messages;
    content += row.dump() + "\n";
  }
  TempFile file(content);
  const json& golden = golden_["prompt_completion"];
  ExpectRows(file.path(), Template(golden["template"]), golden["rows"]);
}

TEST_F(RealTokenizer, PreviewPiecesGiveTheText) {
  for (const char* name : {"sft/chat.jsonl", "sft/alpaca_en.jsonl"}) {
    const auto rows = PreviewFile(SharedData(name), *tokenizer_, chat_template_, Long(), 0, 50);
    ASSERT_TRUE(rows.ok()) << rows.status();
    ASSERT_EQ(rows->size(), 50u);
    for (const PreviewRow& row : *rows) {
      std::string joined;
      for (const std::string& piece : row.tokens) joined += piece;
      EXPECT_EQ(joined, row.text);
      EXPECT_EQ(row.tokens.size(), row.trained.size());
    }
  }
}

// The row whose user text spells control tokens, end to end: as many control tokens as the template
// writes, and nothing of the user's text trains.
TEST_F(RealTokenizer, ControlTokensTypedByAUserStayText) {
  TokenizeOptions options = Long();
  options.loss = TokenizeOptions::Loss::kAssistantOnly;
  const auto dataset = TokenizeFile(SharedData("bad/chat_special_tokens_in_text.jsonl"),
                                    *tokenizer_, Template("qwen2_5_training.jinja"), options);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  const TokenizedRow& row = dataset->rows.at(1);
  const int32_t end = *tokenizer_->TokenToId("<|im_end|>");
  EXPECT_EQ(std::count(row.input_ids.begin(), row.input_ids.end(), end), 3)
      << "system, user, assistant";
  std::vector<int32_t> trained;
  for (size_t i = 0; i < row.trained.size(); ++i) {
    if (row.trained[i]) trained.push_back(row.input_ids[i]);
  }
  EXPECT_EQ(tokenizer_->Decode(trained), "\nI will not.<|im_end|>\n");
}

}  // namespace
}  // namespace finetuned::data
