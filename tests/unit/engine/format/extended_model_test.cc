#include "engine/format/extended_model.h"

#include "engine/format/dequantize.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";

std::string Parity(const std::string& name) {
  return std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/" + name;
}

std::vector<float> Read(const ModelSource& model, const char* tensor) {
  const TensorInfo& info = *model.Find(tensor);
  std::vector<float> numbers(static_cast<size_t>(*ElementCount(info.shape)));
  EXPECT_TRUE(model.ReadF32(info, numbers).ok());
  return numbers;
}

std::vector<int32_t> Ids(const ModelSource& model, std::string_view text) {
  const auto tokenizer = model.LoadTokenizer();
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<int32_t> ids;
  const auto tokens = (*tokenizer)->Encode(text);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  for (const text::Token& token : *tokens) ids.push_back(token.id);
  return ids;
}

absl::StatusOr<std::shared_ptr<const ModelSource>> Extended(const std::string& path, const std::vector<std::string>& tokens) {
  const auto base = OpenModel(path);
  if (!base.ok()) return base.status();
  return WithNewTokens(*base, path, tokens);
}

TEST(ExtendedModel, NewRowsAreTheMeanOfTheOthers) {
  const auto base = OpenModel(Parity("untied"));
  const auto model = Extended(Parity("untied"), {"<think>", "</think>"});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config().vocab_size, 266);
  EXPECT_NE((*model)->fingerprint(), (*base)->fingerprint());
  for (const char* name : {kEmbedding, "lm_head.weight"}) {
    const std::vector<float> old_rows = Read(**base, name), rows = Read(**model, name);
    ASSERT_EQ(rows.size(), 266u * 64) << name;
    EXPECT_TRUE(std::equal(old_rows.begin(), old_rows.end(), rows.begin())) << name;
    for (size_t i = 0; i < 64; ++i) {
      double sum = 0;
      for (size_t row = 0; row < 264; ++row) sum += static_cast<double>(old_rows[row * 64 + i]);
      EXPECT_NEAR(rows[264 * 64 + i], sum / 264, 1e-7) << name;
      EXPECT_EQ(rows[265 * 64 + i], rows[264 * 64 + i]) << name;
    }
  }
  EXPECT_EQ(Read(**model, "model.layers.1.mlp.up_proj.weight"), Read(**base, "model.layers.1.mlp.up_proj.weight"));
}

TEST(ExtendedModel, BytesAreThoseOfItsNumbersInTheStoredType) {
  const auto base = OpenModel(Parity("untied"));
  const auto model = Extended(Parity("untied"), {"<think>"});
  ASSERT_TRUE(model.ok()) << model.status();
  const TensorInfo& info = *(*model)->Find(kEmbedding);
  EXPECT_EQ(info.dtype, DType::kBF16);
  const auto raw = (*model)->Raw(info), old_raw = (*base)->Raw(*(*base)->Find(kEmbedding));
  ASSERT_TRUE(raw.ok()) << raw.status();
  ASSERT_EQ(raw->size(), 265u * 64 * 2);
  EXPECT_TRUE(std::equal(old_raw->begin(), old_raw->end(), raw->begin()));
  std::vector<float> decoded(265 * 64);
  ASSERT_TRUE(DecodeToF32(info.dtype, *raw, decoded).ok());
  EXPECT_NEAR(decoded.back(), Read(**model, kEmbedding).back(), 1e-3);
}

TEST(ExtendedModel, TheTokenizerKnowsThem) {
  for (const std::string& path : {Parity("untied"), GoldenPath("tiny.gguf")}) {
    const auto base = OpenModel(path);
    const auto model = Extended(path, {"<think>"});
    ASSERT_TRUE(model.ok()) << path << model.status();
    const std::vector<int32_t> before = Ids(**base, "a"), after = Ids(**base, "b"), ids = Ids(**model, "a<think>b");
    const int32_t id = (*(*base)->LoadTokenizer())->vocabulary_size();
    std::vector<int32_t> wanted = before;
    wanted.push_back(id);
    wanted.insert(wanted.end(), after.begin(), after.end());
    EXPECT_EQ(ids, wanted) << path;
    EXPECT_NE((*model)->extended_tokenizer(), nullptr);
  }
}

TEST(ExtendedModel, TokensThatCannotBeAddedAreNamed) {
  ExpectError(Extended(Parity("untied"), {"<x>", ""}).status(), absl::StatusCode::kInvalidArgument, {"lora.new_tokens", "is empty"});
  ExpectError(Extended(Parity("untied"), {"<x>", "<x>"}).status(), absl::StatusCode::kInvalidArgument, {"\"<x>\" is there twice"});
  ExpectError(Extended(Parity("untied"), {"<eos>"}).status(), absl::StatusCode::kInvalidArgument, {"\"<eos>\" is a token of the base already"});
}

TEST(ExtendedModel, AnAdaptersFolderBringsItsTokens) {
  const TempFolder adapter;
  const auto plain = OpenModelFor(Parity("untied"), adapter.path());
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->config().vocab_size, 264);
  const auto made = Extended(Parity("untied"), {"<think>"});
  WriteFile(adapter / "tokenizer.json", (*made)->extended_tokenizer()->tokenizer_json);
  WriteFile(adapter / "tokenizer_config.json", (*made)->extended_tokenizer()->tokenizer_config_json);
  const auto opened = OpenModelFor(Parity("untied"), adapter.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->config().vocab_size, 265);
  EXPECT_EQ((*opened)->fingerprint(), (*made)->fingerprint());
  EXPECT_EQ(Ids(**opened, "<think>"), Ids(**made, "<think>"));
  // The base's own tokenizer changes nothing.
  std::filesystem::copy_file(Parity("untied/tokenizer.json"), adapter / "tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ((*OpenModelFor(Parity("untied"), adapter.path()))->config().vocab_size, 264);
}

}  // namespace
}  // namespace finetuned::format
