// Adapters by pattern, of some layers, and DoRA against peft; quantized bases against bitsandbytes.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "engine/format/model_source.h"
#include "engine/lora/peft_files.h"
#include "engine/model/decoder.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

constexpr double kTolerance = 1e-4;

std::string KindPath(const std::string& name) { return GoldenPath("kinds/" + name); }

std::shared_ptr<model::BaseModel> LoadBase(const model::LoadOptions& options, const std::string& name = "untied") {
  const auto source = format::OpenModel(GoldenPath(name));
  if (!source.ok()) throw std::runtime_error(std::string(source.status().message()));
  auto base = model::LoadBaseModel(**source, name, options);
  if (!base.ok()) throw std::runtime_error(std::string(base.status().message()));
  return *base;
}

std::shared_ptr<model::BaseModel> LoadBase(plan::BaseFormat format, bool double_quant = true) {
  return LoadBase({.base = format, .double_quant = double_quant});
}

double Loss(const model::BaseModel& base, lora::Adapter& adapter, const data::PackedBatch& batch,
            const model::DecoderOptions& options = {}) {
  model::Decoder decoder(base, adapter, options);
  adapter.ZeroGradients();
  const at::Tensor scale = at::full({1}, 1.0 / static_cast<double>(batch.num_targets), at::kFloat);
  at::Tensor sums = at::zeros({model::kLossSums}, at::kDouble);
  decoder.ForwardBackward(model::Upload(batch, at::kCPU), scale, 42, 0, sums);
  return sums[0].item<double>() / static_cast<double>(batch.num_targets);
}

class AdapterKind : public testing::TestWithParam<std::string> {
 protected:
  static std::string Base() { return GetParam().starts_with("bias") ? "kinds/biased" : "untied"; }

  c10::InferenceMode no_autograd_;
};

TEST_P(AdapterKind, LogitsLossAndEveryGradientEqualPeft) {
  const auto golden = ReadTensors(KindPath(GetParam() + ".safetensors"));
  const auto base = LoadBase({.base = plan::BaseFormat::kCompute}, Base());
  const auto adapter = LoadGoldenAdapter("kinds/" + GetParam(), *base);
  const data::PackedBatch batch = GoldenBatch(golden);
  model::Decoder decoder(*base, *adapter, {});
  EXPECT_LT((decoder.Logits(model::Upload(batch, at::kCPU)) - golden.at("logits")).abs().max().item<double>(), kTolerance);
  EXPECT_NEAR(Loss(*base, *adapter, batch), golden.at("loss").item<double>(), kTolerance);
  size_t wanted = 0;
  for (const auto& [name, tensor] : golden) wanted += name.rfind("grad.", 0) == 0;
  EXPECT_EQ(adapter->named_parameters().size(), wanted);
  for (const lora::NamedParameter& p : adapter->named_parameters()) {
    const bool magnitude = p.name.ends_with("lora_magnitude_vector");
    const auto found = golden.find("grad." + p.name + (magnitude ? ".weight" : ""));
    ASSERT_NE(found, golden.end()) << p.name;
    EXPECT_LT(RelativeError(p.gradient, found->second), kTolerance) << p.name;
  }
}

TEST_P(AdapterKind, FilesAreThoseOfPeft) {
  const auto base = LoadBase({.base = plan::BaseFormat::kCompute}, Base());
  const auto adapter = LoadGoldenAdapter("kinds/" + GetParam(), *base);
  const std::string directory = NewTemporaryDirectory("kinds_" + GetParam());
  ASSERT_TRUE(lora::SavePeft(*adapter, {"untied", "kinds"}, directory).ok());
  const auto theirs = ReadTensors(KindPath(GetParam()) + "/adapter_model.safetensors");
  const auto ours = ReadTensors(directory + "/adapter_model.safetensors");
  ASSERT_EQ(ours.size(), theirs.size());
  for (const auto& [name, tensor] : theirs) {
    ASSERT_TRUE(ours.contains(name)) << name;
    EXPECT_TRUE(at::equal(ours.at(name), tensor)) << name;
  }
  const auto wanted = ReadGoldenJson("kinds/" + GetParam() + "/adapter_config.json");
  const auto written = nlohmann::json::parse(FileBytes(directory + "/adapter_config.json"));
  for (const char* key : {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "layers_to_transform", "use_dora", "use_rslora", "modules_to_save", "bias"}) {
    EXPECT_EQ(written[key], wanted[key]) << key;
  }
}

TEST(Biases, NewAdaptersBeginWithThoseOfTheBase) {
  c10::InferenceMode no_autograd;
  const auto base = LoadBase({.base = plan::BaseFormat::kCompute}, "kinds/biased");
  const lora::Options options = {.rank = 2, .targets = {lora::Target::kK}, .biases = plan::Biases::kLoraOnly};
  lora::Adapter adapter(base->config, options, at::kCPU, at::kFloat);
  adapter.Initialize(1);
  model::Decoder(*base, adapter, {}).TakeFromBase();
  const int64_t q = base->config.q_size(), kv = base->config.kv_size();
  const auto& parts = adapter.group(1, lora::GroupKind::kQkv).biases;
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_FALSE(parts[0].value_O.defined());
  EXPECT_TRUE(at::equal(parts[1].value_O, base->layers[1].qkv.bias_O().narrow(0, q, kv)));
  EXPECT_TRUE(adapter.group(1, lora::GroupKind::kO).biases.empty());
}

// However the base is kept and whatever is computed again.
TEST_P(AdapterKind, RecomputeChangesNothingOnAnyBase) {
  const auto golden = ReadTensors(KindPath(GetParam() + ".safetensors"));
  const data::PackedBatch batch = GoldenBatch(golden);
  for (const plan::BaseFormat format : {plan::BaseFormat::kNf4, plan::BaseFormat::kInt8, plan::BaseFormat::kFp8}) {
    const auto base = LoadBase({.base = format}, Base());
    const auto adapter = LoadGoldenAdapter("kinds/" + GetParam(), *base);
    const double loss = Loss(*base, *adapter, batch);
    const at::Tensor gradients = adapter->gradients().clone();
    EXPECT_NEAR(loss, golden.at("loss").item<double>(), 0.5);
    for (const model::DecoderOptions& how : {model::DecoderOptions{.recompute_activations = true, .piece_rows = 4},
                                             {.recompute_activations = true, .keep_attention_layers = 1}}) {
      EXPECT_NEAR(Loss(*base, *adapter, batch, how), loss, 1e-6 * loss);
      EXPECT_LT(RelativeError(adapter->gradients(), gradients), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, AdapterKind, testing::Values("patterns", "dora", "dora_patterns", "dora_dropout", "modules", "bias_all",
                                         "bias_lora_only", "bias_dora"),
                         [](const auto& info) { return info.param; });

class QuantizedBase : public testing::Test {
 protected:
  // Largest difference of the base's logits from a golden tensor.
  double Difference(const model::BaseModel& base, const std::string& name) {
    lora::Adapter nothing(base.config, {.rank = 1, .targets = {lora::Target::kQ}}, at::kCPU, at::kFloat);
    model::Decoder decoder(base, nothing, {});
    const at::Tensor logits = decoder.Logits(model::Upload(GoldenBatch(golden_), at::kCPU));
    return (logits - golden_.at(name)).abs().max().item<double>();
  }

  c10::InferenceMode no_autograd_;
  const std::map<std::string, at::Tensor> golden_ = ReadTensors(KindPath("bases.safetensors"));
};

TEST_F(QuantizedBase, Int8EqualsBitsandbytes) { EXPECT_LT(Difference(*LoadBase(plan::BaseFormat::kInt8), "int8"), kTolerance); }

TEST_F(QuantizedBase, Fp4EqualsBitsandbytes) {
  const double nested = Difference(*LoadBase(plan::BaseFormat::kFp4), "fp4");
  EXPECT_LT(nested, kTolerance);
  EXPECT_LT(Difference(*LoadBase(plan::BaseFormat::kFp4, /*double_quant=*/false), "fp4_plain"), kTolerance);
  EXPECT_GT(Difference(*LoadBase(plan::BaseFormat::kFp4), "fp4_plain"), kTolerance);
}

TEST_F(QuantizedBase, SkippedModulesKeepTheirNumbers) {
  const auto all = LoadBase({.base = plan::BaseFormat::kNf4, .skip_modules = {".*_proj"}});
  EXPECT_FALSE(all->layers[0].qkv.quantized());
  EXPECT_FALSE(all->layers[1].down.quantized());
  const auto some = LoadBase({.base = plan::BaseFormat::kInt8, .skip_modules = {"k_proj", "layers\\.1\\.mlp\\..*"}});
  EXPECT_TRUE(some->layers[1].qkv.quantized());
  EXPECT_FALSE(some->layers[1].gate_up.quantized());
  EXPECT_TRUE(some->layers[0].gate_up.quantized());
  const auto dense = LoadBase(plan::BaseFormat::kCompute);
  const int64_t q = dense->config.q_size(), kv = dense->config.kv_size();
  const at::Tensor scratch = at::empty({some->layers[0].qkv.ScratchElements(0)});
  const at::Tensor weight = some->layers[0].qkv.Weight(scratch), exact = dense->layers[0].qkv.Weight({});
  EXPECT_TRUE(at::equal(weight.narrow(0, q, kv), exact.narrow(0, q, kv)));
  EXPECT_FALSE(at::equal(weight.narrow(0, 0, q), exact.narrow(0, 0, q)));
}

// Inputs in INT8 cost little, and the backward knows nothing of it.
TEST_F(QuantizedBase, Int8InputsStayCloseToTheDequantizedProduct) {
  const auto rounded = LoadBase({.base = plan::BaseFormat::kInt8, .int8_threshold = 6});
  const double scale = golden_.at("int8").abs().max().item<double>();
  const double difference = Difference(*rounded, "int8");
  EXPECT_LT(difference, 0.05 * scale);
  EXPECT_GT(difference, kTolerance);
}

at::Tensor CodesOf(const model::StoredMatrix& matrix) {
  const auto* four_bit = std::get_if<kernels::Nf4Tensor>(&matrix);
  return four_bit != nullptr ? four_bit->codes : std::get<kernels::RowCodes>(matrix).codes_OI;
}

// Checkpoints of bitsandbytes are taken as they are: the bytes that quantizing here gives, and the logits.
TEST_F(QuantizedBase, StoredByBitsandbytesIsNotQuantizedAgain) {
  const struct {
    const char *folder, *logits;
    plan::BaseFormat format;
    bool double_quant;
  } cases[] = {{"kinds/bnb_nf4", "nf4", plan::BaseFormat::kNf4, true},
               {"kinds/bnb_fp4", "fp4_plain", plan::BaseFormat::kFp4, false},
               {"kinds/bnb_int8", "int8", plan::BaseFormat::kInt8, true}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.folder);
    const auto stored = LoadBase({.base = c.format}, c.folder);
    EXPECT_LT(Difference(*stored, c.logits), kTolerance);
    const auto here = LoadBase(c.format, c.double_quant);
    for (size_t i = 0; i < here->layers.size(); ++i) {
      for (size_t p = 0; p < 3; ++p) {
        EXPECT_TRUE(at::equal(CodesOf(stored->layers[i].qkv.parts()[p]), CodesOf(here->layers[i].qkv.parts()[p])));
      }
    }
    EXPECT_EQ(stored->bytes(), here->bytes());
    // Another format is made of their values.
    EXPECT_LT(Difference(*LoadBase({.base = plan::BaseFormat::kCompute}, c.folder), c.logits), kTolerance);
  }
}

// DoRA at its start: magnitudes are the norms, so the base's outputs are what they were.
TEST_F(QuantizedBase, NewDoraAdapterChangesNothing) {
  for (const plan::BaseFormat format : {plan::BaseFormat::kInt8, plan::BaseFormat::kFp4}) {
    const auto base = LoadBase(format);
    lora::Adapter adapter(base->config, {.rank = 3, .targets = *lora::ParseTargets({"all-linear"}), .use_dora = true},
                          at::kCPU, at::kFloat);
    adapter.Initialize(1);
    model::Decoder decoder(*base, adapter, {});
    decoder.TakeFromBase();
    const at::Tensor logits = decoder.Logits(model::Upload(GoldenBatch(golden_), at::kCPU));
    EXPECT_LT((logits - golden_.at(format == plan::BaseFormat::kInt8 ? "int8" : "fp4")).abs().max().item<double>(), kTolerance);
  }
}

}  // namespace
}  // namespace finetuned::parity
