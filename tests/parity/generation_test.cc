// Generation against the training forward of the same model, and against transformers.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/format/model_source.h"
#include "engine/generate/generator.h"
#include "engine/model/decoder.h"
#include "engine/plan/collector.h"
#include "engine/plan/memory_plan.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

using generate::Completion;
using generate::FinishReason;
using generate::Generator;
using generate::GeneratorOptions;
using generate::Request;

struct Model {
  std::shared_ptr<model::BaseModel> base;
  std::unique_ptr<lora::Adapter> adapter;
};

class Generation : public testing::Test {
 protected:
  Model Load(bool nf4 = false, const std::string& base = "tied", const std::string& adapter = "tied_adapter") {
    Model m{LoadGoldenModel(base, nf4), nullptr};
    m.adapter = LoadGoldenAdapter(adapter, *m.base);
    return m;
  }
  c10::InferenceMode no_autograd_;
};

std::vector<int32_t> Prompt(int32_t length, int32_t start) {
  std::vector<int32_t> ids;
  for (int32_t t = 0; t < length; ++t) ids.push_back((t * 37 + start * 11 + 5) % 256);
  return ids;
}

Request Greedy(std::vector<int32_t> prompt, int64_t tokens) {
  Request r;
  r.prompt_ids = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_new_tokens = tokens;
  return r;
}

GeneratorOptions Small() {
  GeneratorOptions o;
  o.max_batch = 8;
  o.cache_tokens = 2048;
  o.max_sequence_tokens = 256;
  return o;
}

// Logits of the training forward over prompt and answer: row i predicts answer token i.
at::Tensor TrainingLogits(const Model& m, const std::vector<int32_t>& prompt, const std::vector<int32_t>& answer) {
  data::PackedBatch batch;
  batch.input_ids = prompt;
  batch.input_ids.insert(batch.input_ids.end(), answer.begin(), answer.end());
  const int32_t n = static_cast<int32_t>(batch.input_ids.size());
  batch.labels.assign(n, -100);
  for (int32_t t = 0; t < n; ++t) batch.position_ids.push_back(t);
  batch.cu_seqlens = {0, n};
  batch.max_seqlen = n;
  model::Decoder decoder(*m.base, *m.adapter, {});
  const at::Tensor logits = decoder.Logits(model::Upload(batch, at::kCPU));
  return logits.narrow(0, static_cast<int64_t>(prompt.size()) - 1, static_cast<int64_t>(answer.size())).clone();
}

std::vector<std::vector<Completion>> MustGenerate(Generator& g, const std::vector<Request>& requests) {
  auto got = g.Generate(requests);
  EXPECT_TRUE(got.ok()) << got.status();
  return got.ok() ? *std::move(got) : std::vector<std::vector<Completion>>(requests.size());
}

void ExpectLogprobs(const Model& m, const Request& r, const Completion& c, double tolerance) {
  const double t = r.sampling.temperature > 0 ? r.sampling.temperature : 1;
  const at::Tensor wanted = (TrainingLogits(m, r.prompt_ids, c.tokens) / t).log_softmax(1);
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    EXPECT_NEAR(c.logprobs[i], wanted[i][c.tokens[i]].item<float>(), tolerance) << i;
  }
}

TEST_F(Generation, GreedyTokensAreTheLargestLogitsOfTheTrainingForward) {
  for (bool nf4 : {false, true}) {
    const Model m = Load(nf4);
    Generator g(*m.base, m.adapter.get(), Small());
    // Lengths around the borders of cache blocks.
    std::vector<Request> requests;
    for (int32_t length : {1, 15, 16, 17, 40}) requests.push_back(Greedy(Prompt(length, length), 40));
    const auto got = MustGenerate(g, requests);
    for (size_t r = 0; r < requests.size(); ++r) {
      const Completion& c = got[r][0];
      ASSERT_EQ(c.tokens.size(), 40u);
      EXPECT_EQ(c.finish, FinishReason::kLength);
      const at::Tensor best = TrainingLogits(m, requests[r].prompt_ids, c.tokens).argmax(1);
      for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(c.tokens[i], best[i].item<int64_t>()) << r << " " << i;
      ExpectLogprobs(m, requests[r], c, 2e-5);
    }
  }
}

// Of all linears or of adapted ones; one token at a time over a weight that stays in its 4-bit codes.
TEST_F(Generation, TrainedBiasesCount) {
  for (const char* kind : {"bias_all", "bias_lora_only", "bias_dora"}) {
    for (const bool nf4 : {false, true}) {
      const Model m = Load(nf4, "kinds/biased", std::string("kinds/") + kind);
      Generator g(*m.base, m.adapter.get(), Small());
      Request r = Greedy(Prompt(9, 2), 12);
      ExpectLogprobs(m, r, MustGenerate(g, {r})[0][0], 1e-4);
    }
  }
}

// More than eight sequences take the standing weights on a CPU, fewer the codes.
TEST_F(Generation, StandingWeightsGiveTheSameAnswersAndFollowTheAdapter) {
  const Model m = Load(/*nf4=*/true);
  std::vector<Request> requests;
  for (int32_t i = 0; i < 12; ++i) requests.push_back(Greedy(Prompt(10 + 3 * i, i), 12 + 4 * i));
  model::Decoder decoder(*m.base, *m.adapter, {.standing_layers = 1000});
  GeneratorOptions options = Small();
  options.max_batch = 12;
  options.workspace = &decoder.workspace();
  options.standing = decoder.standing();
  ASSERT_NE(options.standing, nullptr);
  Generator stored(*m.base, m.adapter.get(), Small()), standing(*m.base, m.adapter.get(), options);
  options.deterministic = true;
  Generator deterministic(*m.base, m.adapter.get(), options), of_base(*m.base, nullptr, options);
  std::vector<std::vector<int32_t>> before;
  for (int round = 0; round < 2; ++round) {
    const auto want = MustGenerate(stored, requests), got = MustGenerate(standing, requests);
    const auto exact = MustGenerate(deterministic, requests);
    std::vector<std::vector<int32_t>> answers;
    for (size_t r = 0; r < requests.size(); ++r) {
      EXPECT_EQ(got[r][0].tokens, want[r][0].tokens) << round << " " << r;
      EXPECT_EQ(exact[r][0].tokens, want[r][0].tokens) << round << " " << r;
      ExpectLogprobs(m, requests[r], got[r][0], 2e-5);
      answers.push_back(got[r][0].tokens);
    }
    EXPECT_NE(answers, before);
    before = answers;
    MustGenerate(of_base, requests);
    m.adapter->parameters().mul_(3);
    m.adapter->RefreshCompute();
  }
}

TEST_F(Generation, Nf4HeadAnswersAsTheSameHeadDequantized) {
  const auto base = LoadGoldenModel("untied", {.nf4_lm_head = true});
  model::BaseModel dequantized = *base;
  const int64_t v = base->config.vocab_size;
  dequantized.lm_head = model::FrozenLinear::Dense(
      base->lm_head.Rows(0, v, at::empty({v * base->config.hidden_size})), {});
  dequantized.options.nf4_lm_head = false;
  const std::vector<Request> requests = {Greedy(Prompt(20, 3), 30), Greedy(Prompt(5, 1), 30)};
  Generator stored(*base, nullptr, Small()), dense(dequantized, nullptr, Small());
  const auto got = MustGenerate(stored, requests), want = MustGenerate(dense, requests);
  for (size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ(got[r][0].tokens, want[r][0].tokens);
    EXPECT_EQ(got[r][0].logprobs, want[r][0].logprobs);
  }
}

TEST_F(Generation, TheAdapterCounts) {
  const Model m = Load();
  Generator adapted(*m.base, m.adapter.get(), Small()), alone(*m.base, nullptr, Small());
  const std::vector<Request> requests = {Greedy(Prompt(20, 3), 30)};
  EXPECT_NE(MustGenerate(adapted, requests)[0][0].tokens, MustGenerate(alone, requests)[0][0].tokens);
  // Changed parameters are used by the next call.
  m.adapter->parameters().zero_();
  m.adapter->RefreshCompute();
  EXPECT_EQ(MustGenerate(adapted, requests)[0][0].tokens, MustGenerate(alone, requests)[0][0].tokens);
}

TEST_F(Generation, SampledLogprobsAreThoseOfTheTrainingForwardAtTheTemperature) {
  const Model m = Load();
  Generator g(*m.base, m.adapter.get(), Small());
  Request r{Prompt(21, 1), 6, {}};
  r.sampling.max_new_tokens = 30;
  r.sampling.temperature = 0.7;
  r.sampling.top_k = 40;
  r.sampling.top_p = 0.9;
  r.sampling.min_p = 0.01;
  r.sampling.repetition_penalty = 1.1;
  const auto got = MustGenerate(g, {r});
  for (const Completion& c : got[0]) ExpectLogprobs(m, r, c, 2e-5);
}

TEST_F(Generation, SeedAndSampleDecideWhateverRunsBeside) {
  const Model m = Load();
  Request r{Prompt(19, 2), 5, {}};
  r.sampling.max_new_tokens = 24;
  Generator wide(*m.base, m.adapter.get(), Small());
  const auto together = MustGenerate(wide, {Greedy(Prompt(9, 9), 50), r, Greedy(Prompt(33, 8), 7)})[1];
  // Two at a time: the others wait and go on with the stored prompt.
  GeneratorOptions narrow = Small();
  narrow.max_batch = 2;
  Generator two(*m.base, m.adapter.get(), narrow);
  const auto apart = MustGenerate(two, {r})[0];
  for (size_t s = 0; s < 5; ++s) EXPECT_EQ(together[s].tokens, apart[s].tokens) << s;
  EXPECT_NE(together[0].tokens, together[1].tokens);
  r.sampling.seed = 43;
  EXPECT_NE(MustGenerate(two, {r})[0][0].tokens, apart[0].tokens);
}

TEST_F(Generation, ASmallCacheServesManySequencesInTurn) {
  const Model m = Load();
  GeneratorOptions small = Small();
  small.cache_tokens = 160;  // ten blocks
  Generator g(*m.base, m.adapter.get(), small), roomy(*m.base, m.adapter.get(), Small());
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    Request r{Prompt(10 + 7 * i, i), 1 + i % 3, {}};
    r.sampling.max_new_tokens = 20 + 5 * i;
    requests.push_back(r);
  }
  const auto tight = MustGenerate(g, requests), wanted = MustGenerate(roomy, requests);
  for (size_t r = 0; r < requests.size(); ++r) {
    ASSERT_EQ(tight[r].size(), wanted[r].size());
    for (size_t s = 0; s < tight[r].size(); ++s) EXPECT_EQ(tight[r][s].tokens, wanted[r][s].tokens) << r << " " << s;
  }
  // Everything was given back.
  EXPECT_EQ(MustGenerate(g, requests)[5][0].tokens, wanted[5][0].tokens);
}

TEST_F(Generation, EndTokensAndTheCallbackEndASequence) {
  const Model m = Load();
  Generator g(*m.base, m.adapter.get(), Small());
  Request r = Greedy(Prompt(20, 3), 30);
  const std::vector<int32_t> all = MustGenerate(g, {r})[0][0].tokens;
  const int32_t end = all[11];
  const auto first = std::find(all.begin(), all.end(), end) - all.begin();
  r.sampling.eos_ids = {263, end};
  const Completion stopped = MustGenerate(g, {r})[0][0];
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(all.begin(), all.begin() + first + 1));
  EXPECT_EQ(stopped.finish, FinishReason::kStop);

  r.sampling.eos_ids = {};
  std::vector<int32_t> seen;
  const auto cut = g.Generate({r}, [&](const generate::TokenEvent& e) {
    EXPECT_EQ(e.index, static_cast<int64_t>(seen.size()));
    seen.push_back(e.token);
    return seen.size() < 5;
  });
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ((*cut)[0][0].tokens, std::vector<int32_t>(all.begin(), all.begin() + 5));
  EXPECT_EQ((*cut)[0][0].finish, FinishReason::kStop);
  EXPECT_EQ(seen, (*cut)[0][0].tokens);
}

TEST_F(Generation, CancellingFreesEverything) {
  const Model m = Load();
  GeneratorOptions small = Small();
  small.cache_tokens = 256;
  Generator g(*m.base, m.adapter.get(), small);
  Request r{Prompt(30, 4), 3, {}};
  r.sampling.max_new_tokens = 40;
  const auto wanted = MustGenerate(g, {r});
  std::atomic<bool> cancel{false};
  const auto got = g.Generate({r, r}, [&](const generate::TokenEvent& e) {
    if (e.index == 10) cancel = true;
    return true;
  }, &cancel);
  EXPECT_TRUE(absl::IsCancelled(got.status())) << got.status();
  const auto again = MustGenerate(g, {r});
  EXPECT_EQ(again[0][2].tokens, wanted[0][2].tokens);
}

TEST_F(Generation, RefusesWhatCannotRun) {
  const Model m = Load();
  Generator g(*m.base, m.adapter.get(), Small());
  const auto error = [&](const Request& r) { return std::string(g.Generate({Greedy({1}, 1), r}).status().message()); };
  EXPECT_EQ(error(Greedy({}, 1)), "request 1: the prompt is empty");
  EXPECT_EQ(error(Greedy({264}, 1)), "request 1: token 264 is outside the vocabulary of 264");
  EXPECT_EQ(error(Greedy(Prompt(256, 0), 1)),
            "request 1: the prompt has 256 tokens, prompt and answer together may have 256");
  EXPECT_EQ(error(Greedy({1}, 0)), "request 1: max_new_tokens: is 0, must be above 0");
  Request r = Greedy({1}, 1);
  r.sampling.top_p = 0;
  EXPECT_EQ(error(r), "request 1: top_p: is 0, must be above 0 and at most 1");
  GeneratorOptions tiny = Small();
  tiny.cache_tokens = 64;
  Generator little(*m.base, nullptr, tiny);
  EXPECT_EQ(little.Generate({Greedy(Prompt(40, 0), 40)}).status().message(),
            "request 0: prompt and answer need 96 tokens of cache, it has 64");
}

// The first token of many samples against the softmax of the training forward: Pearson's statistic over the tokens
// that are expected at least five times, the others together.
TEST_F(Generation, SamplesFollowTheDistribution) {
  const Model m = Load();
  GeneratorOptions options = Small();
  options.max_batch = 256;
  Generator g(*m.base, m.adapter.get(), options);
  Request r{Prompt(12, 6), 6000, {}};
  r.sampling.max_new_tokens = 1;
  r.sampling.temperature = 0.5;
  r.sampling.seed = 1;
  std::map<int32_t, double> counts;
  const auto got = MustGenerate(g, {r});
  for (const Completion& c : got[0]) counts[c.tokens[0]] += 1;
  const at::Tensor p = (TrainingLogits(m, r.prompt_ids, {0}) / 0.5).softmax(1)[0];
  double statistic = 0, rest_expected = 0, rest_seen = 0;
  int degrees = 0;
  for (int32_t v = 0; v < 264; ++v) {
    const double expected = 6000 * p[v].item<double>();
    if (expected < 5) {
      rest_expected += expected;
      rest_seen += counts[v];
      continue;
    }
    statistic += (counts[v] - expected) * (counts[v] - expected) / expected;
    ++degrees;
  }
  if (rest_expected > 0) statistic += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
  ASSERT_GT(degrees, 20);
  // Mean `degrees`, deviation sqrt(2 degrees): four deviations.
  EXPECT_LT(statistic, degrees + 4 * std::sqrt(2.0 * degrees));
}

TEST_F(Generation, TheEngineTakesThePlannedBuffers) {
  const Model m = Load();
  GeneratorOptions options = Small();
  options.cache_tokens = 8 * 64;
  options.max_sequence_tokens = 64;
  Generator g(*m.base, m.adapter.get(), options);
  MustGenerate(g, {Request{Prompt(16, 1), 8, {.max_new_tokens = 10}}});
  plan::PlanInput input = model::PlanInputOf(*m.base);
  input.lora_rank = m.adapter->options().rank;
  for (lora::Target t : m.adapter->options().targets) input.target_modules.push_back(lora::TargetName(t));
  input.rollout = {8, 64};
  std::map<std::string, int64_t> planned;
  for (const plan::Buffer& b : plan::PlanMemory(input).buffers) planned[b.name] += b.bytes;
  for (const auto& [name, bytes] : g.Bytes()) {
    if (name.rfind("decode.", 0) == 0 || name == "kv_cache") {
      EXPECT_EQ(bytes, planned[name]) << name;
    }
  }
}

TEST_F(Generation, SmolLm2AnswersAsTransformersDoes) {
  const std::string path = std::string(FINETUNED_DEPS_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  auto source = format::OpenModel(path);
  if (absl::IsNotFound(source.status())) GTEST_SKIP() << path << " is not there";
  ASSERT_TRUE(source.ok()) << source.status();
  auto base = model::LoadBaseModel(**source, path, {at::kCPU, at::kFloat, plan::BaseFormat::kCompute});
  ASSERT_TRUE(base.ok()) << base.status();
  const nlohmann::json golden = ReadGoldenJson("generation.json");
  std::vector<Request> requests;
  for (const auto& row : golden["rows"]) {
    requests.push_back(Greedy(row["prompt"].get<std::vector<int32_t>>(), golden["max_new_tokens"]));
    requests.back().sampling.eos_ids = golden["eos_ids"].get<std::vector<int32_t>>();
  }
  Generator g(**base, nullptr, Small());
  const auto got = MustGenerate(g, requests);
  ASSERT_GT(requests.size(), 2u);
  for (size_t r = 0; r < requests.size(); ++r) {
    EXPECT_EQ(got[r][0].tokens, golden["rows"][r]["answer"].get<std::vector<int32_t>>()) << r;
  }
}

}  // namespace
}  // namespace finetuned::parity
