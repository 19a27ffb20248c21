#include "engine/data/dataset.h"
#include "engine/data/shuffle.h"
#include "tests/unit/engine/data/data_test_util.h"

namespace finetuned::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Loss = TokenizeOptions::Loss;

const FakeTokenizer kTokenizer;

TokenizedDataset Tokenize(const std::string& content, const TokenizeOptions& options = {},
                          const std::string& chat_template = "") {
  TempFile file(content);
  auto dataset = TokenizeFile(file.path(), kTokenizer, chat_template, options);
  EXPECT_TRUE(dataset.ok()) << dataset.status();
  return dataset.ok() ? *std::move(dataset) : TokenizedDataset();
}

std::string ErrorOf(const std::string& content, const TokenizeOptions& options = {},
                    const std::string& chat_template = "") {
  TempFile file(content);
  const auto dataset = TokenizeFile(file.path(), kTokenizer, chat_template, options);
  EXPECT_EQ(dataset.status().code(), absl::StatusCode::kInvalidArgument) << dataset.status();
  return std::string(dataset.status().message());
}

// The previewed row with [brackets] around what trains.
std::string Marked(const std::string& content, const TokenizeOptions& options = {},
                   const std::string& chat_template = "") {
  TempFile file(content);
  const auto rows = PreviewFile(file.path(), kTokenizer, chat_template, options, 0, 1);
  EXPECT_TRUE(rows.ok()) << rows.status();
  if (!rows.ok() || rows->empty()) return "";
  const PreviewRow& row = rows->front();
  std::string marked, joined;
  bool open = false;
  for (size_t i = 0; i < row.tokens.size(); ++i) {
    if (row.trained[i] != open) {
      marked += open ? "]" : "[";
      open = !open;
    }
    marked += row.tokens[i];
    joined += row.tokens[i];
  }
  EXPECT_EQ(joined, row.text);
  return open ? marked + "]" : marked;
}

constexpr char kText[] = R"({"text": "Hello there."})";
constexpr char kPair[] = R"({"prompt": "Capital of Norway?\n", "completion": "Oslo."})";
constexpr char kAlpaca[] = R"({"instruction": "Add.", "input": "1 2", "output": "3"})";
constexpr char kChat[] =
    R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"},)"
    R"( {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Ciao"}]})";

TEST(Text, TrainsOnAllAndEndsWithEos) {
  EXPECT_EQ(Marked(kText), "<s>[Hello there.</s>]");
  EXPECT_EQ(Marked(R"({"text": "Done</s>"})"), "<s>[Done</s>]") << "no second EOS";
  TokenizeOptions options;
  options.append_eos = false;
  EXPECT_EQ(Marked(kText, options), "<s>[Hello there.]");
}

TEST(PromptCompletion, TrainsOnTheCompletion) {
  EXPECT_EQ(Marked(kPair), "<s>Capital of Norway?\n[Oslo.</s>]");
  TokenizeOptions options;
  options.loss = Loss::kAllTokens;
  EXPECT_EQ(Marked(kPair, options), "<s>[Capital of Norway?\nOslo.</s>]");
}

TEST(PromptCompletion, TokenAcrossTheSeamTrains) {
  EXPECT_EQ(Marked(R"({"prompt": "sun", "completion": "flower field"})"),
            "<s>[sunflower field</s>]");
}

TEST(PromptCompletion, MessagesTrainFromWhereThePromptEnds) {
  const std::string row = R"({"prompt": [{"role": "user", "content": "Hi"}],)"
                          R"( "completion": [{"role": "assistant", "content": "Yo"}]})";
  EXPECT_EQ(Marked(row, {}, kPlainChatMl),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>\n]");
  TokenizeOptions options;
  options.loss = Loss::kAssistantOnly;
  EXPECT_EQ(Marked(row, options, kMarkedChatMl),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n");
}

TEST(Alpaca, WithoutTemplateIsTheStanfordPrompt) {
  EXPECT_EQ(Marked(kAlpaca),
            "<s>Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n[3</s>]");
  EXPECT_EQ(Marked(R"({"instruction": "Go", "input": "", "output": "ok"})"),
            "<s>Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nGo\n\n### Response:\n[ok</s>]");
}

TEST(Alpaca, WithTemplateIsAConversation) {
  EXPECT_EQ(Marked(kAlpaca, {}, kPlainChatMl),
            "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>\n]");
}

TEST(Messages, TrainOnWhatTheTemplateMarks) {
  EXPECT_EQ(Marked(kChat, {}, kMarkedChatMl),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[Ciao<|im_end|>]\n");
}

TEST(Messages, WithoutMarkersTrainOnAllWithAWarning) {
  const TokenizedDataset dataset = Tokenize(kChat, {}, kPlainChatMl);
  ASSERT_EQ(dataset.warnings.size(), 1u);
  EXPECT_EQ(dataset.warnings[0].reason, "TRAINS_ON_ALL_TOKENS");
  EXPECT_EQ(dataset.stats.trained_tokens, dataset.stats.tokens - 1);
}

TEST(Messages, AssistantOnlyWithoutMarkersIsRefusedWithTheWaysOut) {
  TokenizeOptions options;
  options.loss = Loss::kAssistantOnly;
  const std::string error = ErrorOf(kChat, options, kPlainChatMl);
  EXPECT_THAT(error, HasSubstr("the model's chat template"));
  EXPECT_THAT(error, HasSubstr("{% for m in messages %}"));
  EXPECT_THAT(error, HasSubstr("{% generation %}"));
  options.chat_template = kMarkedChatMl;  // the job's wins over the model's
  EXPECT_EQ(Tokenize(kChat, options, kPlainChatMl).rows.size(), 1u);
}

TEST(Messages, AKnownTemplateIsReplacedByItsTrainingVariant) {
  const std::string folder = std::string(FINETUNED_SOURCE_DIR) + "/engine/text/templates/";
  const std::string original = ReadAll(folder + "qwen2_5.jinja");
  ASSERT_FALSE(original.empty());
  EXPECT_THAT(Marked(kChat, {}, original),
              HasSubstr("\nHi<|im_end|>\n<|im_start|>assistant[\nYo<|im_end|>\n]"));
}

TEST(Messages, NeedATemplate) {
  EXPECT_THAT(ErrorOf(kChat), HasSubstr("no chat template; set chat_template"));
  EXPECT_THAT(ErrorOf(kChat, {}, "{% for %}"), HasSubstr("chat template cannot be used"));
}

TEST(Messages, ConversationsOfFromAndValueAreTheSame) {
  const std::string row =
      R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]})";
  EXPECT_EQ(Marked(row, {}, kMarkedChatMl),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yo<|im_end|>]\n");
}

TEST(Messages, TextPartsAreJoined) {
  const std::string row =
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "A"},)"
      R"( {"type": "text", "text": "B"}]}, {"role": "assistant", "content": "C"}]})";
  EXPECT_THAT(Marked(row, {}, kMarkedChatMl), HasSubstr("user\nAB<|im_end|>"));
}

TEST(Messages, ToolArgumentsAreObjectsForTheTemplate) {
  const std::string row =
      R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null,)"
      R"( "tool_calls": [{"type": "function", "function": {"name": "f", "arguments":)"
      R"( "{\"b\": 1, \"a\": [2]}"}}]}], "tools": "[{\"name\": \"f\"}]"})";
  const std::string source =
      "{{ tools | tojson }}{% generation %}{{ messages[1].tool_calls[0].function.arguments | "
      "tojson "
      "}}{% endgeneration %}";
  EXPECT_EQ(Marked(row, {}, source), R"([{"name": "f"}][{"b": 1, "a": [2]}])");
}

TEST(Messages, TypedControlTokensStayText) {
  const std::string row = R"({"messages": [{"role": "user", "content": "<|im_end|></s>"},)"
                          R"( {"role": "assistant", "content": "No"}]})";
  const TokenizedDataset dataset = Tokenize(row, {}, kMarkedChatMl);
  const auto& ids = dataset.rows.at(0).input_ids;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 4), 2) << "only those of the template";
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 0);
  EXPECT_THAT(Marked(row, {}, kMarkedChatMl), HasSubstr("user\n<|im_end|></s><|im_end|>\n"));
}

TEST(Messages, ATemplateThatRefusesARowNamesTheLine) {
  const std::string error =
      ErrorOf(std::string("\n") + kChat, {}, "{{ raise_exception('Roles must alternate') }}");
  EXPECT_THAT(error, HasSubstr("line 2"));
  EXPECT_THAT(error, HasSubstr("Roles must alternate"));
}

TEST(Loss, ThatDoesNotFitTheFormatIsRefused) {
  TokenizeOptions options;
  options.loss = Loss::kCompletionOnly;
  EXPECT_THAT(ErrorOf(kText, options), HasSubstr("needs rows with prompt and completion"));
  EXPECT_THAT(ErrorOf(kChat, options, kMarkedChatMl), HasSubstr("use assistant-only loss"));
  options.loss = Loss::kAssistantOnly;
  EXPECT_THAT(ErrorOf(kText, options), HasSubstr("needs conversations"));
  EXPECT_THAT(ErrorOf(kPair, options, kMarkedChatMl), HasSubstr("needs conversations"));
}

TEST(Truncation, KeepsTheSideAskedFor) {
  TokenizeOptions options;
  options.max_seq_length = 3;
  const std::string row = R"({"text": "a b c d"})";
  EXPECT_EQ(Marked(row, options), "<s>[a b]");
  options.truncation = Truncation::kKeepEnd;
  EXPECT_EQ(Marked(row, options), "[ c d</s>]");
  const TokenizedDataset dataset = Tokenize(row, options);
  EXPECT_EQ(dataset.stats.truncated_rows, 1);
  EXPECT_THAT(dataset.stats.truncated_row_lines, ElementsAre(1));
  EXPECT_EQ(dataset.stats.trained_tokens, 2) << "the first token of a row is never a target";
}

TEST(Truncation, RowsWithoutATrainedTokenAreDroppedCountedAndNamed) {
  TokenizeOptions options;
  options.max_seq_length = 6;
  const std::string content = std::string(R"({"prompt": "a b", "completion": " c"})") + "\n\n" +
                              R"({"prompt": "a b c d e f", "completion": " g"})" + "\n" +
                              R"({"prompt": "a", "completion": " b c"})" + "\n";
  const TokenizedDataset dataset = Tokenize(content, options);
  EXPECT_EQ(dataset.stats.rows, 2);
  EXPECT_EQ(dataset.stats.dropped_rows, 1);
  EXPECT_EQ(dataset.stats.dropped_by_reason.at("PROMPT_TOO_LONG"), 1);
  EXPECT_EQ(dataset.rows[1].line, 4);
  ASSERT_EQ(dataset.warnings.size(), 1u);
  EXPECT_EQ(dataset.warnings[0].line, 3);
  EXPECT_THAT(dataset.warnings[0].message, HasSubstr("9 tokens, 7 of them before"));
  EXPECT_THAT(dataset.warnings[0].message, HasSubstr("limit of 6"));

  options.max_seq_length = 2;
  EXPECT_THAT(ErrorOf(content, options), HasSubstr("no row has a token to train on"));
}

TEST(Stats, CountRowsTokensAndLengths) {
  TokenizeOptions options;
  options.append_eos = false;
  std::string content;
  for (int i = 1; i <= 100; ++i) {  // i words: i + 1 tokens with BOS
    std::string text = "w";
    for (int k = 1; k < i; ++k) text += " w";
    content += R"({"text": ")" + text + "\"}\n";
  }
  content += content.substr(0, content.find('\n') + 1);  // row 1 again
  const DatasetStats stats = Tokenize(content, options).stats;
  EXPECT_EQ(stats.rows, 101);
  EXPECT_EQ(stats.duplicate_rows, 1);
  EXPECT_EQ(stats.tokens, 5050 + 100 + 2);
  EXPECT_EQ(stats.trained_tokens, 5050 + 1);
  EXPECT_EQ(stats.max_tokens, 101);
  EXPECT_EQ(stats.p50_tokens, 51);
  EXPECT_EQ(stats.p95_tokens, 96);
  EXPECT_THAT(stats.length_histogram, ElementsAre(0, 2, 2, 4, 8, 16, 32, 37));
}

TEST(Threads, DoNotChangeTheResult) {
  std::string content;
  SplitMix64 generator(1);
  for (int i = 0; i < 5000; ++i) {
    std::string prompt, completion = "x";
    for (uint64_t k = generator.Below(20); k > 0; --k) prompt += "p ";
    for (uint64_t k = generator.Below(5); k > 0; --k) completion += " y";
    absl::StrAppend(&content, R"({"prompt": ")", prompt, R"(", "completion": ")", completion,
                    "\"}\n");
  }
  TempFile file(content);
  TokenizeOptions options;
  options.max_seq_length = 16;
  const auto one = TokenizeFile(file.path(), kTokenizer, "", options, 1);
  ASSERT_TRUE(one.ok());
  EXPECT_GT(one->stats.dropped_rows, 100);
  for (int threads : {2, 7}) {
    const auto many = TokenizeFile(file.path(), kTokenizer, "", options, threads);
    ASSERT_EQ(many->rows.size(), one->rows.size());
    for (size_t i = 0; i < one->rows.size(); ++i) {
      ASSERT_EQ(many->rows[i].line, one->rows[i].line);
      ASSERT_EQ(many->rows[i].input_ids, one->rows[i].input_ids);
      ASSERT_EQ(many->rows[i].trained, one->rows[i].trained);
    }
    ASSERT_EQ(many->warnings.size(), one->warnings.size());
    for (size_t i = 0; i < one->warnings.size(); ++i) {
      EXPECT_EQ(many->warnings[i].message, one->warnings[i].message);
    }
    EXPECT_EQ(many->stats.dropped_by_reason, one->stats.dropped_by_reason);
  }
}

TEST(TokenizeFile, RefusesABadFileWithLineAndField) {
  EXPECT_THAT(ErrorOf("{\"text\": \"a\"}\n{\"text\": 5}\n{\"text\": 6}\n"),
              HasSubstr(" line 2, field text: text must be a string, got a number"));
  EXPECT_THAT(ErrorOf("{\"text\": \"a\"}\n{\"text\": \"b\n"), HasSubstr("unexpected end of JSON"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("the file is empty"));
  EXPECT_THAT(ErrorOf("[{\"text\": \"a\"}]"), HasSubstr("JSON array"));
  EXPECT_EQ(TokenizeFile("/nonexistent", kTokenizer, "", {}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(PreviewFile, PagesOverRowsAndShowsDroppedOnes) {
  TempFile file("\n{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n{\"text\": \"\"}\n{\"text\": 1}\n");
  TokenizeOptions options;
  options.append_eos = false;
  const auto rows = PreviewFile(file.path(), kTokenizer, "", options, 1, 2);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].line, 4);
  EXPECT_EQ((*rows)[0].text, "<s>b");
  EXPECT_TRUE((*rows)[1].dropped);
  EXPECT_EQ((*rows)[1].drop_reason, "NO_TRAINED_TOKENS");
  EXPECT_FALSE(PreviewFile(file.path(), kTokenizer, "", options, 1, 3).ok())
      << "bad row in the page";
  EXPECT_TRUE(PreviewFile(file.path(), kTokenizer, "", options, 9, 3)->empty());
}

TEST(PreviewFile, PiecesAreWholeCharacters) {
  EXPECT_EQ(Marked(R"({"prompt": "\u00e9", "completion": "\u65e5x"})"), "<s>é[日x</s>]");
  TempFile file(R"({"text": "日"})");
  const auto rows = PreviewFile(file.path(), kTokenizer, "", {}, 0, 1);
  EXPECT_THAT((*rows)[0].tokens, ElementsAre("<s>", "日", "", "", "</s>"));
}

}  // namespace
}  // namespace finetuned::data
