#include "engine/export/export.h"

#include "engine/export/gguf_types.h"
#include "engine/format/model_source.h"
#include "engine/format/safetensors_writer.h"
#include "tests/unit/engine/format/test_files.h"

namespace finetuned::exports {
namespace {

using format::DType;
using format::TempFolder;
using ::testing::HasSubstr;

std::string Parity(const std::string& name) {
  return std::string(FINETUNED_SOURCE_DIR) + "/tests/golden/parity/" + name;
}

ExportOptions Options(const std::string& kind, const std::string& quantization) {
  ExportOptions o;
  o.format = kind;
  o.quantization = quantization;
  o.base_path = o.base_name = Parity("untied");
  o.adapter_dir = Parity("untied_adapter");
  o.name = "test";
  return o;
}

absl::Status Write(const ExportOptions& o, const std::string& folder, const Progress& progress = nullptr) {
  const auto base = format::OpenModel(o.base_path);
  return base.ok() ? WriteExport(o, *base, folder, progress) : base.status();
}

// Of a model of 32 layers with rows of 4096 numbers.
DType TypeOf(const char* quantization, const char* name, std::vector<int64_t> shape = {4096, 4096}) {
  format::ModelConfig config;
  config.architecture = "llama";
  config.num_hidden_layers = 32;
  return GgufTypeOf(*FindGgufQuantization(quantization), config, name, shape);
}

TEST(GgufTypes, MixesGiveSomeLayersMoreBits) {
  EXPECT_EQ(TypeOf("q4_k_m", "blk.0.attn_v.weight"), DType::kQ6_K);     // the first eighth
  EXPECT_EQ(TypeOf("q4_k_m", "blk.4.attn_v.weight"), DType::kQ4_K);
  EXPECT_EQ(TypeOf("q4_k_m", "blk.6.ffn_down.weight"), DType::kQ6_K);   // every third
  EXPECT_EQ(TypeOf("q4_k_m", "blk.28.ffn_down.weight"), DType::kQ6_K);  // the last eighth
  EXPECT_EQ(TypeOf("q4_k_m", "blk.0.attn_q.weight"), DType::kQ4_K);
  EXPECT_EQ(TypeOf("q5_k_m", "blk.0.attn_v.weight"), DType::kQ6_K);
  EXPECT_EQ(TypeOf("q5_k_m", "blk.5.ffn_down.weight"), DType::kQ5_K);
}

TEST(GgufTypes, TheHeadKeepsMoreBitsAndNormsAreFloats) {
  EXPECT_EQ(TypeOf("q4_0", "output.weight"), DType::kQ6_K);
  EXPECT_EQ(TypeOf("q8_0", "output.weight"), DType::kQ8_0);
  EXPECT_EQ(TypeOf("q4_k_m", "token_embd.weight"), DType::kQ4_K);
  EXPECT_EQ(TypeOf("q4_k_m", "blk.1.attn_norm.weight", {4096}), DType::kF32);
  EXPECT_EQ(TypeOf("f16", "blk.1.attn_q.bias", {4096}), DType::kF32);
}

TEST(GgufTypes, RowsThatAreNoWholeBlocksFallBack) {
  EXPECT_EQ(TypeOf("q4_k_m", "blk.4.attn_q.weight", {576, 576}), DType::kQ5_0);
  EXPECT_EQ(TypeOf("q5_k_m", "blk.4.attn_q.weight", {576, 576}), DType::kQ5_1);
  EXPECT_EQ(TypeOf("q6_k", "blk.4.attn_q.weight", {576, 576}), DType::kQ8_0);
  EXPECT_EQ(TypeOf("q4_k_m", "blk.4.attn_q.weight", {576, 40}), DType::kF16);
}

TEST(Export, EveryFormatOpensAgain) {
  for (const auto& [kind, quantization] : std::vector<std::pair<const char*, const char*>>{
           {"merged", "bf16"}, {"gguf", "q8_0"}, {"gguf", "q4_k_m"}}) {
    TempFolder folder;
    const ExportOptions o = Options(kind, quantization);
    ASSERT_EQ(Write(o, folder.path()), absl::OkStatus());
    const auto model = format::OpenModel(ModelPathOf(o, folder.path()));
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->config().num_hidden_layers, 2);
    EXPECT_TRUE((*model)->LoadTokenizer().ok());
  }
}

TEST(Export, ALoraFileHoldsTheAdapter) {
  TempFolder folder;
  const ExportOptions o = Options("gguf_lora", "");
  ASSERT_EQ(Write(o, folder.path()), absl::OkStatus());
  const auto base = format::OpenModel(o.base_path);
  const auto difference = LargestDifferenceOfLora(o, **base, folder.path());
  ASSERT_TRUE(difference.ok()) << difference.status();
  EXPECT_EQ(*difference, 0);
}

TEST(Export, CancelledExportsLeaveNoWeights) {
  TempFolder folder;
  int calls = 0;
  const absl::Status s = Write(Options("gguf", "f32"), folder.path(), [&](int64_t done, int64_t total) {
    EXPECT_LT(done, total);
    return ++calls < 3;
  });
  EXPECT_TRUE(absl::IsCancelled(s)) << s;
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Export, AnAdapterOfAnotherBaseIsNamed) {
  TempFolder folder;
  ExportOptions o = Options("merged", "f32");
  o.base_path = format::GoldenPath("tiny");
  const absl::Status s = Write(o, folder.path());
  EXPECT_TRUE(absl::IsInvalidArgument(s)) << s;
  EXPECT_THAT(s.message(), HasSubstr("the adapter belongs to another base"));
  EXPECT_THAT(s.message(), HasSubstr("expected shape"));
}

TEST(Export, AnAdapterWithANumberThatIsNotFiniteIsNamed) {
  TempFolder adapter, folder;
  for (const auto& entry : std::filesystem::directory_iterator(Parity("untied_adapter"))) {
    std::filesystem::copy(entry.path(), adapter.path());
  }
  const std::string file = adapter / "adapter_model.safetensors";
  std::string bytes = format::ReadFile(file);
  bytes.replace(bytes.size() - 4, 4, "\xff\xff\xff\xff");
  format::WriteFile(file, bytes);
  ExportOptions o = Options("gguf", "q8_0");
  o.adapter_dir = adapter.path();
  const absl::Status s = Write(o, folder.path());
  EXPECT_TRUE(absl::IsInvalidArgument(s)) << s;
  EXPECT_THAT(s.message(), HasSubstr("expected finite numbers, found"));
}

TEST(Export, ABaseWithANumberThatIsNotFiniteIsNamed) {
  TempFolder model, folder;
  for (const auto& entry : std::filesystem::directory_iterator(Parity("untied"))) {
    std::filesystem::copy(entry.path(), model.path());
  }
  const std::string file = model / "model.safetensors";
  std::string bytes = format::ReadFile(file);
  bytes.replace(bytes.size() - 2, 2, "\xff\xff");
  format::WriteFile(file, bytes);
  ExportOptions o = Options("merged", "f32");
  o.base_path = model.path();
  const absl::Status s = Write(o, folder.path());
  EXPECT_TRUE(absl::IsInvalidArgument(s)) << s;
  EXPECT_THAT(s.message(), HasSubstr(format::DisplayName(model.path()) + ": tensor "));
  EXPECT_THAT(s.message(), HasSubstr("expected finite numbers, found"));
}

TEST(Export, WrongOptionsAreNamed) {
  EXPECT_EQ(CheckExportOptions(Options("gguf", "q3_k")).message().substr(0, 50),
            "export.quantization: is \"q3_k\", expected one of f3");
  EXPECT_THAT(CheckExportOptions(Options("merged", "q8_0")).message(), HasSubstr("expected one of bf16, f16, f32"));
  ExportOptions alone = Options("gguf_lora", "");
  alone.adapter_dir.clear();
  EXPECT_THAT(CheckExportOptions(alone).message(), HasSubstr("needs an adapter"));
}

TEST(Export, TheDiskIsLookedAtFirst) {
  TempFolder folder;
  const absl::Status s = CheckFreeSpace(folder.path(), int64_t{1} << 60);
  EXPECT_TRUE(absl::IsResourceExhausted(s)) << s;
  EXPECT_THAT(s.message(), HasSubstr("bytes left"));
}

TEST(Export, TheModelfileKnowsChatsAndEnds) {
  TempFolder folder;
  ExportOptions o = Options("gguf", "f32");
  o.ollama_modelfile = true;
  ASSERT_EQ(Write(o, folder.path()), absl::OkStatus());
  const std::string text = format::ReadFile(folder / "Modelfile");
  EXPECT_THAT(text, HasSubstr("FROM ./model-f32.gguf\n"));
  EXPECT_THAT(text, HasSubstr("PARAMETER stop \"<eos>\"\n"));
}

}  // namespace
}  // namespace finetuned::exports
