// Generation on the GPU: float32 gives the CPU's tokens, bfloat16 over NF4 the log-probabilities of its own training
// forward, recorded steps the tokens of steps that are not.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "engine/format/model_source.h"
#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "tests/bench/engine/random_model.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

using generate::Completion;
using generate::Generator;
using generate::GeneratorOptions;
using generate::Request;

class GenerationGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
  c10::InferenceMode no_autograd_;
};

GeneratorOptions Small(bool graphs) {
  GeneratorOptions o;
  o.max_batch = 12;
  o.cache_tokens = 2048;
  o.max_sequence_tokens = 128;
  o.cuda_graphs = graphs;
  return o;
}

std::vector<Request> Requests(double temperature, int32_t vocabulary) {
  std::vector<Request> out;
  for (int32_t i = 0; i < 7; ++i) {
    Request r;
    for (int32_t t = 0; t < 5 + 9 * i; ++t) r.prompt_ids.push_back((t * 37 + i * 11 + 5) % vocabulary);
    r.num_samples = 1 + i % 4;
    r.sampling.max_new_tokens = 20 + 5 * i;
    r.sampling.temperature = temperature;
    r.sampling.seed = 100 + static_cast<uint64_t>(i);
    out.push_back(std::move(r));
  }
  return out;
}

std::vector<Completion> Flat(Generator& g, const std::vector<Request>& requests) {
  const auto got = g.Generate(requests);
  EXPECT_TRUE(got.ok()) << got.status();
  std::vector<Completion> out;
  if (!got.ok()) return out;
  for (const auto& samples : *got) out.insert(out.end(), samples.begin(), samples.end());
  return out;
}

std::shared_ptr<model::BaseModel> LoadTied(const model::LoadOptions& options) {
  auto source = format::OpenModel(GoldenPath("tied"));
  EXPECT_TRUE(source.ok()) << source.status();
  auto base = model::LoadBaseModel(**source, "tied", options);
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

TEST_F(GenerationGpu, Float32GivesTheTokensOfTheCpu) {
  const auto host = LoadTied({at::kCPU, at::kFloat, plan::BaseFormat::kNf4}), device = LoadTied({at::kCUDA, at::kFloat, plan::BaseFormat::kNf4});
  const auto host_adapter = LoadGoldenAdapter("tied_adapter", *host);
  const auto device_adapter = LoadGoldenAdapter("tied_adapter", *device);
  for (double temperature : {0.0, 0.8}) {
    const auto requests = Requests(temperature, 256);
    Generator on_host(*host, host_adapter.get(), Small(false));
    const auto wanted = Flat(on_host, requests);
    for (bool graphs : {false, true}) {
      Generator on_device(*device, device_adapter.get(), Small(graphs));
      for (int run = 0; run < 2; ++run) {
        const auto got = Flat(on_device, requests);
        ASSERT_EQ(got.size(), wanted.size());
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(got[i].tokens, wanted[i].tokens) << i << " graphs " << graphs << " run " << run;
        }
      }
    }
  }
}

// Shapes with every path of the product: heads of 64, inputs in and out of multiples of 128.
struct RandomSetting {
  std::shared_ptr<model::BaseModel> base;
  std::unique_ptr<lora::Adapter> adapter;
};

RandomSetting MakeRandom() {
  format::ModelConfig config = bench::Shape("smollm2-135m");
  config.num_hidden_layers = 4;
  config.vocab_size = 3000;
  RandomSetting s{bench::RandomModel(config, {at::kCUDA, at::kBFloat16, plan::BaseFormat::kNf4}), nullptr};
  lora::Options options{8, 16, 0, false, *lora::ParseTargets({"all-linear"})};
  s.adapter = std::make_unique<lora::Adapter>(config, options, at::kCUDA, at::kBFloat16);
  s.adapter->Initialize(1);
  s.adapter->parameters().add_(0.01);
  s.adapter->RefreshCompute();
  return s;
}

TEST_F(GenerationGpu, RecordedStepsGiveTheSameTokens) {
  const RandomSetting s = MakeRandom();
  const auto requests = Requests(1.0, 3000);
  Generator plain(*s.base, s.adapter.get(), Small(false)), recorded(*s.base, s.adapter.get(), Small(true));
  const auto wanted = Flat(plain, requests);
  for (int run = 0; run < 2; ++run) {
    const auto got = Flat(recorded, requests);
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(got[i].tokens, wanted[i].tokens) << i << " run " << run;
  }
  // A recorded step uses the parameters of now.
  s.adapter->parameters().mul_(5);
  s.adapter->RefreshCompute();
  EXPECT_NE(Flat(recorded, requests)[3].tokens, wanted[3].tokens);
}

class StandingGenerationGpu : public GenerationGpu, public testing::WithParamInterface<int64_t> {};

TEST_P(StandingGenerationGpu, LogprobsAreThoseOfTheTrainingForwardInBfloat16) {
  const RandomSetting s = MakeRandom();
  const auto requests = Requests(1.0, 3000);
  model::Decoder decoder(*s.base, *s.adapter, {.standing_layers = GetParam()});
  GeneratorOptions options = Small(true);
  options.workspace = &decoder.workspace();
  options.standing = decoder.standing();
  Generator g(*s.base, s.adapter.get(), options);
  const auto got = g.Generate(requests);
  ASSERT_TRUE(got.ok()) << got.status();
  double worst = 0, sum = 0;
  int64_t count = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    for (const Completion& c : (*got)[r]) {
      data::PackedBatch batch;
      batch.input_ids = requests[r].prompt_ids;
      batch.input_ids.insert(batch.input_ids.end(), c.tokens.begin(), c.tokens.end());
      const int32_t n = static_cast<int32_t>(batch.input_ids.size());
      batch.labels.assign(n, -100);
      for (int32_t t = 0; t < n; ++t) batch.position_ids.push_back(t);
      batch.cu_seqlens = {0, n};
      batch.max_seqlen = n;
      const at::Tensor logits = decoder.Logits(model::Upload(batch, at::kCUDA)).log_softmax(1).cpu();
      for (size_t i = 0; i < c.tokens.size(); ++i) {
        const int64_t row = static_cast<int64_t>(requests[r].prompt_ids.size() + i) - 1;
        const double error = std::abs(c.logprobs[i] - logits[row][c.tokens[i]].item<double>());
        worst = std::max(worst, error);
        sum += error;
        ++count;
      }
    }
  }
  std::cout << "log-probabilities: largest difference " << worst << ", mean " << sum / count << " of " << count << "\n";
  EXPECT_LT(worst, 0.1);
  EXPECT_LT(sum / static_cast<double>(count), 0.015);
}

INSTANTIATE_TEST_SUITE_P(Layers, StandingGenerationGpu, testing::Values(0, 2, 4));

}  // namespace
}  // namespace finetuned::parity
