#include "tests/parity/family_testing.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "engine/generate/generator.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {

std::vector<std::string> FamilyNames() {
  return {"nemo",    "mistral", "qwen2",  "qwen3",  "smollm3", "phi3",   "phi3_long",
          "granite", "gemma",   "gemma2", "gemma3", "gemma3_images", "cohere", "cohere2"};
}

FamilyOutcome ComputeFamily(const std::string& name, const model::LoadOptions& options, const data::PackedBatch& packed,
                            const model::DecoderOptions& how) {
  const auto base = LoadGoldenModel(name, options);
  const auto adapter = LoadGoldenAdapter(name + "_adapter", *base);
  adapter->RefreshCompute();
  adapter->ZeroGradients();
  const model::DeviceBatch batch = model::Upload(packed, options.device);
  model::Decoder decoder(*base, *adapter, how);
  FamilyOutcome out;
  out.logits = decoder.Logits(batch).cpu().to(at::kFloat);
  at::Tensor sums = at::zeros({model::kLossSums}, at::device(options.device).dtype(at::kDouble));
  const double targets = static_cast<double>(packed.num_targets);
  const at::Tensor scale = at::full({1}, 1.0 / targets, at::device(options.device).dtype(at::kFloat));
  decoder.ForwardBackward(batch, scale, 0, 0, sums);
  out.loss = sums[0].item<double>() / targets;
  for (const lora::NamedParameter& p : adapter->named_parameters()) out.grads[p.name] = p.gradient.cpu().clone();
  return out;
}

void ExpectGreedyAnswer(const std::string& name, const model::LoadOptions& load) {
  const auto golden = ReadTensors(GoldenPath(name + ".safetensors"));
  const auto base = LoadGoldenModel(name, load);
  const auto adapter = LoadGoldenAdapter(name + "_adapter", *base);
  generate::GeneratorOptions options;
  options.max_batch = 2;
  options.cache_tokens = 256;
  options.max_sequence_tokens = 64;
  generate::Generator generator(*base, adapter.get(), options);
  const auto ids = [&](const char* key) {
    const at::Tensor& t = golden.at(key);
    return std::vector<int32_t>(t.const_data_ptr<int32_t>(), t.const_data_ptr<int32_t>() + t.numel());
  };
  generate::Request request{ids("prompt"), 1, {}};
  request.sampling.temperature = 0;
  request.sampling.max_new_tokens = static_cast<int64_t>(ids("answer").size());
  const auto got = generator.Generate({request});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ((*got)[0][0].tokens, ids("answer"));
}

}  // namespace finetuned::parity
