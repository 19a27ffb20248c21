// A tiny model of each family as a Hugging Face folder (transformers) and as a GGUF file (the gguf package).
#include <cmath>

#include "engine/format/model_layout.h"
#include "engine/format/model_source.h"
#include "engine/format/rope.h"
#include "engine/format/safetensors_writer.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::format {
namespace {

std::string FamilyPath(const std::string& name) {
  return std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/families/" + name;
}

std::vector<float> ReadAll(const ModelSource& model, const TensorInfo& tensor) {
  std::vector<float> out(static_cast<size_t>(*ElementCount(tensor.shape)));
  const absl::Status status = model.ReadF32(tensor, std::span<float>(out));
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

void ExpectEqualParts(const ModelConfig& a, const ModelConfig& b) {
  const auto near = [](double x, double y) { return std::abs(x - y) <= 1e-6 * std::abs(y); };  // GGUF's keys are f32
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_TRUE(near(a.rms_norm_eps, b.rms_norm_eps));
  EXPECT_EQ(a.attention_bias, b.attention_bias);
  EXPECT_EQ(a.output_bias, b.output_bias);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.norm, b.norm);
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.block, b.block);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.fused_projections, b.fused_projections);
  EXPECT_EQ(a.rotary_size(), b.rotary_size());
  EXPECT_EQ(a.rope_interleaved, b.rope_interleaved);
  EXPECT_TRUE(near(a.score_scale(), b.score_scale()));
  EXPECT_TRUE(near(a.attention_softcap, b.attention_softcap));
  EXPECT_TRUE(near(a.logits_softcap, b.logits_softcap));
  EXPECT_TRUE(near(a.embedding_multiplier, b.embedding_multiplier));
  EXPECT_TRUE(near(a.residual_multiplier, b.residual_multiplier));
  EXPECT_TRUE(near(a.logits_multiplier, b.logits_multiplier));
  EXPECT_TRUE(near(a.rope_scaling.magnitude, b.rope_scaling.magnitude));
  for (const RopeTable table : {RopeTable::kMain, RopeTable::kLong}) {
    if (table == RopeTable::kLong && b.rope_scaling.long_divisors.empty()) continue;
    EXPECT_EQ(InverseFrequencies(a, table), InverseFrequencies(b, table));
  }
  for (int64_t i = 0; i < b.num_hidden_layers; ++i) EXPECT_EQ(a.layer_kind(i), b.layer_kind(i)) << i;
}

class FamilyFiles : public testing::TestWithParam<const char*> {};

TEST_P(FamilyFiles, GgufAndFolderOfOneModelAreEqual) {
  const auto gguf = OpenModel(FamilyPath(GetParam()) + ".gguf"), folder = OpenModel(FamilyPath(GetParam()));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(folder.ok()) << folder.status();
  ExpectEqualParts((*gguf)->config(), (*folder)->config());
  ASSERT_EQ((*gguf)->tensors().size(), (*folder)->tensors().size());
  for (const TensorInfo& tensor : (*folder)->tensors()) {
    const TensorInfo* found = (*gguf)->Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
    std::vector<float> wanted = ReadAll(**folder, tensor);
    if ((*folder)->config().norm_weight_plus_one && tensor.name.find("norm") != std::string::npos) {
      for (float& x : wanted) x += 1;
    }
    EXPECT_EQ(ReadAll(**gguf, *found), wanted) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyFiles,
                         testing::Values("qwen2", "qwen3", "smollm3", "phi3", "phi3_long", "granite", "gemma", "gemma2",
                                         "cohere", "cohere2"));

// Copies a family's folder; `change` may drop a tensor (empty shape) or give it another shape.
std::string Damaged(const TempFolder& folder, const std::string& family, const std::string& tensor,
                    const std::vector<int64_t>& shape) {
  const std::string path = folder / (family + tensor + std::to_string(shape.size()));
  std::filesystem::create_directory(path);
  std::filesystem::copy_file(FamilyPath(family) + "/config.json", path + "/config.json");
  const auto model = OpenModel(FamilyPath(family));
  std::vector<SafetensorsWriter::Layout> layout;
  for (const TensorInfo& t : (*model)->tensors()) {
    if (t.name != tensor) layout.push_back({t.name, DType::kF32, t.shape});
    if (t.name == tensor && !shape.empty()) layout.push_back({t.name, DType::kF32, shape});
  }
  const std::vector<SafetensorsWriter::Layout> written = layout;
  auto writer = SafetensorsWriter::Create(path + "/model.safetensors", std::move(layout));
  for (const auto& t : written) {
    const std::vector<float> zeros(static_cast<size_t>(*ElementCount(t.shape)));
    EXPECT_TRUE((*writer)->Append(t.name, BytesOf(zeros)).ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return path;
}

TEST(FamilyTensors, MissingOnesAndOtherShapesAreNamed) {
  const TempFolder folder;
  const struct {
    const char *family, *tensor;
    std::vector<int64_t> shape;
    const char* message;
  } cases[] = {
      {"qwen2", "model.layers.1.self_attn.k_proj.bias", {}, "is missing; expected shape [16]"},
      {"qwen3", "model.layers.0.self_attn.q_norm.weight", {}, "is missing; expected shape [16]"},
      {"qwen3", "model.layers.0.self_attn.q_norm.weight", {4, 16}, "expected shape [16], found [4, 16]"},
      {"phi3", "model.layers.1.self_attn.qkv_proj.weight", {63, 32}, "expected shape [64, 32], found [63, 32]"},
      {"gemma2", "model.layers.0.pre_feedforward_layernorm.weight", {}, "is missing; expected shape [32]"},
      {"cohere", "model.layers.0.self_attn.k_norm.weight", {}, "is missing; expected shape [1, 16]"},
  };
  for (const auto& c : cases) {
    const auto opened = OpenModel(Damaged(folder, c.family, c.tensor, c.shape));
    ExpectError(opened.status(), absl::StatusCode::kInvalidArgument, {"model.safetensors", c.tensor, c.message}, c.tensor);
  }
}

TEST(FamilyTensors, NamesOfLinearsAreThoseOfTheModel) {
  const auto phi = OpenModel(FamilyPath("phi3"));
  ASSERT_TRUE(phi.ok()) << phi.status();
  EXPECT_TRUE(CheckLinearNames({"qkv_proj", "all-linear"}, (*phi)->config()).ok());
  ExpectError(CheckLinearNames({"o_proj", "q_proj"}, (*phi)->config()), absl::StatusCode::kInvalidArgument,
              {"\"q_proj\" is not a linear of this phi3 model; use qkv_proj, o_proj, gate_up_proj, down_proj or all-linear"});
}

}  // namespace
}  // namespace finetuned::format
