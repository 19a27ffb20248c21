#include "engine/format/model_source.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/format/safetensors_reader.h"
#include "engine/format/sha256.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

using Code = absl::StatusCode;
using nlohmann::json;

std::vector<float> ReadAll(const ModelSource& model, const std::string& name) {
  const TensorInfo* tensor = model.Find(name);
  if (tensor == nullptr) {
    ADD_FAILURE() << name << " is missing";
    return {};
  }
  std::vector<float> out(*ElementCount(tensor->shape));
  const absl::Status status = model.ReadF32(*tensor, std::span<float>(out));
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

TEST(ModelSource, GgufAndFolderOfOneModelAreEqual) {
  const auto gguf = OpenModel(GoldenPath("tiny.gguf"));
  const auto folder = OpenModel(GoldenPath("tiny"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_EQ((*folder)->tensors().size(), 2u * 9 + 3);
  ASSERT_EQ((*gguf)->tensors().size(), (*folder)->tensors().size());
  for (const TensorInfo& tensor : (*folder)->tensors()) {
    const std::vector<float> a = ReadAll(**gguf, tensor.name), b = ReadAll(**folder, tensor.name);
    EXPECT_EQ(std::memcmp(a.data(), b.data(), b.size() * sizeof(float)), 0) << tensor.name;
    EXPECT_EQ((*gguf)->Find(tensor.name)->shape, tensor.shape) << tensor.name;
  }
  const ModelConfig &a = (*gguf)->config(), &b = (*folder)->config();
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(static_cast<float>(a.rms_norm_eps), static_cast<float>(b.rms_norm_eps));
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.bos_token_id, b.bos_token_id);
  EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
  EXPECT_EQ((*gguf)->chat_template(), (*folder)->chat_template());
  EXPECT_FALSE((*gguf)->chat_template().empty());
}

TEST(ModelSource, BothFormsLoadTheSameTokenizer) {
  for (const char* name : {"tiny.gguf", "tiny"}) {
    const auto model = OpenModel(GoldenPath(name));
    ASSERT_TRUE(model.ok()) << model.status();
    const auto tokenizer = (*model)->LoadTokenizer();
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    const auto tokens = (*tokenizer)->Encode("cab bd</s>");
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    std::vector<int32_t> ids;
    for (const text::Token& token : *tokens) ids.push_back(token.id);
    EXPECT_THAT(ids, testing::ElementsAre(2, 27, 26, 1, 3, 29)) << name;
    EXPECT_EQ((*tokenizer)->bos(), 28);
    EXPECT_EQ((*tokenizer)->eos(), 29);
  }
}

TEST(ModelSource, SmolLm2) {
  const std::string path =
      std::string(FINETUNED_DEPS_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "SmolLM2 is absent; run deploy/install_deps.sh --model";
  }
  const auto model = OpenModel(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& c = (*model)->config();
  EXPECT_EQ((*model)->tensors().size(), 272u);
  EXPECT_EQ(c.num_hidden_layers, 30);
  EXPECT_EQ(c.hidden_size, 576);
  EXPECT_EQ(c.intermediate_size, 1536);
  EXPECT_EQ(c.num_attention_heads, 9);
  EXPECT_EQ(c.num_key_value_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.rope_theta, 100000.0);
  EXPECT_EQ(c.max_position_embeddings, 8192);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_THAT(c.eos_token_ids, testing::ElementsAre(2));
  EXPECT_THAT((*model)->chat_template(), testing::HasSubstr("<|im_start|>"));
  int64_t weights = 0;
  for (const TensorInfo& tensor : (*model)->tensors()) weights += *ElementCount(tensor.shape);
  EXPECT_EQ(weights, 134515008);
  const json goldens = json::parse(ReadFile(GoldenPath("goldens.json")));
  ASSERT_EQ(goldens["smollm2"].size(), 5u);
  for (const auto& [name, sum] : goldens["smollm2"].items()) {
    EXPECT_EQ(Sha256Hex(BytesOf(ReadAll(**model, name))), sum) << name;
  }
  const auto tokenizer = (*model)->LoadTokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 49152);
}

TEST(ModelSource, FingerprintChangesWithContentOnly) {
  TempFolder folder;
  std::filesystem::copy(GoldenPath("tiny"), folder / "copy");
  const auto original = OpenModel(GoldenPath("tiny"));
  const auto copy = OpenModel(folder / "copy/");
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ((*original)->fingerprint().size(), 64u);
  EXPECT_EQ((*original)->fingerprint(), (*copy)->fingerprint());
  const std::string shard = folder / "copy/model-00001-of-00002.safetensors";
  std::string bytes = ReadFile(shard);
  bytes.back() ^= 1;
  WriteFile(shard, bytes);
  const auto changed = OpenModel(folder / "copy");
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_NE((*original)->fingerprint(), (*changed)->fingerprint());
  EXPECT_NE((*original)->fingerprint(), (*OpenModel(GoldenPath("tiny.gguf")))->fingerprint());
}

TEST(ModelSource, ReadingIntoTheWrongSizeIsRefused) {
  const auto model = OpenModel(GoldenPath("tiny"));
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<float> out(31);
  ExpectError((*model)->ReadF32(*(*model)->Find("model.norm.weight"), std::span<float>(out)),
              Code::kInvalidArgument, {"model.norm.weight: expected room for 32", "found 31"});
  ExpectError((*model)->Raw(TensorInfo{.name = "x"}).status(), Code::kNotFound, {"no tensor x"});
}

// A copy of the tiny folder that a test may damage.
class BrokenFolder : public testing::Test {
 protected:
  BrokenFolder() { std::filesystem::copy(GoldenPath("tiny"), model_); }

  json Index() { return json::parse(ReadFile(index_)); }
  void ExpectRefused(Code code, std::initializer_list<const char*> parts) {
    ExpectError(OpenModel(model_).status(), code, parts);
  }

  TempFolder folder_;
  const std::string model_ = folder_ / "model";
  const std::string index_ = model_ + "/model.safetensors.index.json";
};

TEST_F(BrokenFolder, IndexPointingOutsideIsRefused) {
  for (const char* shard : {"../other/model.safetensors", "/etc/passwd", "sub/x.safetensors", "",
                            "..", "config.json", ".hidden.safetensors", "a\\b.safetensors"}) {
    json index = Index();
    index["weight_map"]["model.norm.weight"] = shard;
    TempFolder other;
    std::filesystem::copy(model_, other / "model");
    WriteFile(other / "model/model.safetensors.index.json", index.dump());
    ExpectError(OpenModel(other / "model").status(), Code::kInvalidArgument,
                {"model/model.safetensors.index.json", "model.norm.weight", "in the same folder"},
                shard);
  }
}

TEST_F(BrokenFolder, SymbolicLinksAreFollowed) {
  const std::string shard = model_ + "/model-00001-of-00002.safetensors";
  std::filesystem::rename(shard, folder_ / "blob");
  std::filesystem::create_symlink("../blob", shard);
  EXPECT_TRUE(OpenModel(model_).ok()) << OpenModel(model_).status();
}

TEST_F(BrokenFolder, ShardThatIsMissing) {
  std::filesystem::remove(model_ + "/model-00002-of-00002.safetensors");
  ExpectRefused(Code::kNotFound, {"model/model-00002-of-00002.safetensors"});
}

TEST_F(BrokenFolder, TensorMissingFromItsShard) {
  json index = Index();
  std::string& shard = index["weight_map"]["model.norm.weight"].get_ref<std::string&>();
  shard = shard.find("00001") != std::string::npos ? "model-00002-of-00002.safetensors"
                                                   : "model-00001-of-00002.safetensors";
  WriteFile(index_, index.dump());
  ExpectRefused(Code::kInvalidArgument, {"model.norm.weight is expected in", "does not have it"});
}

TEST_F(BrokenFolder, TensorNotInTheIndex) {
  json index = Index();
  index["weight_map"].erase("model.norm.weight");
  WriteFile(index_, index.dump());
  ExpectRefused(Code::kInvalidArgument, {"model.norm.weight is not listed in"});
}

TEST_F(BrokenFolder, IndexWithoutMap) {
  WriteFile(index_, "{}");
  ExpectRefused(Code::kInvalidArgument, {"weight_map: expected an object"});
}

TEST_F(BrokenFolder, NoWeightsAtAll) {
  std::filesystem::remove(index_);
  ExpectRefused(Code::kNotFound, {"neither model.safetensors nor", "pytorch_model.bin"});
}

TEST_F(BrokenFolder, ConfigThatDisagreesWithTheWeights) {
  json config = json::parse(ReadFile(model_ + "/config.json"));
  config["intermediate_size"] = 96;
  WriteFile(model_ + "/config.json", config.dump());
  ExpectRefused(Code::kInvalidArgument,
                {"model.layers.0.mlp.gate_proj.weight: expected shape [96, 32], found [64, 32]"});
  config["intermediate_size"] = 64;
  config["attention_bias"] = true;
  WriteFile(model_ + "/config.json", config.dump());
  ExpectRefused(Code::kInvalidArgument, {"q_proj.bias is missing; expected shape [32]"});
}

TEST_F(BrokenFolder, TiedHeadStoredAnywayIsLeftOut) {
  json config = json::parse(ReadFile(model_ + "/config.json"));
  config["tie_word_embeddings"] = true;
  WriteFile(model_ + "/config.json", config.dump());
  const auto model = OpenModel(model_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->Find("lm_head.weight"), nullptr);
}

TEST_F(BrokenFolder, ChatTemplateFileWinsAndNamedTemplatesAreRead) {
  const std::string path = model_ + "/tokenizer_config.json";
  WriteFile(path, R"({"chat_template": [{"name": "tool_use", "template": "T"},
                                        {"name": "default", "template": "D"}]})");
  EXPECT_EQ((*OpenModel(model_))->chat_template(), "D");
  WriteFile(model_ + "/chat_template.jinja", "J");
  EXPECT_EQ((*OpenModel(model_))->chat_template(), "J");
  std::filesystem::remove(model_ + "/chat_template.jinja");
  WriteFile(path, R"({"chat_template": 3})");
  ExpectRefused(Code::kInvalidArgument,
                {"tokenizer_config.json: chat_template: expected a string"});
}

TEST_F(BrokenFolder, TokenizerWithMoreTokensThanEmbeddingsIsRefused) {
  const std::string path = model_ + "/tokenizer.json";
  json tokenizer = json::parse(ReadFile(path));
  tokenizer["added_tokens"].push_back(tokenizer["added_tokens"][0]);
  tokenizer["added_tokens"].back().update({{"id", 64}, {"content", "<extra>"}});
  WriteFile(path, tokenizer.dump());
  const auto model = OpenModel(model_);
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectError((*model)->LoadTokenizer().status(), Code::kInvalidArgument,
              {"model/tokenizer.json: expected at most 64 tokens", "found 65"});
}

TEST_F(BrokenFolder, MissingTokenizerIsReportedWhenItIsAskedFor) {
  std::filesystem::remove(model_ + "/tokenizer.json");
  const auto model = OpenModel(model_);
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectError((*model)->LoadTokenizer().status(), Code::kNotFound, {"model/tokenizer.json"});
}

TEST(ModelSource, PathsThatAreNoModel) {
  ExpectError(OpenModel("/nonexistent/model").status(), Code::kNotFound, {"no such model"});
  TempFolder folder;
  ExpectError(OpenModel(folder.path()).status(), Code::kNotFound, {"config.json"});
  WriteFile(folder / "x.bin", "hello");
  ExpectError(OpenModel(folder / "x.bin").status(), Code::kInvalidArgument, {"not a GGUF file"});
}

}  // namespace
}  // namespace finetuned::format
