// DPO, KTO and GRPO on the GPU against the CPU in float32, which equals TRL (preference_parity_test, grpo_test): losses,
// metrics and gradients of a tiny model, prompts shared where the method shares them.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/data/shuffle.h"
#include "engine/format/model_source.h"
#include "engine/grpo/loss.h"
#include "engine/model/decoder.h"
#include "engine/train/method.h"
#include "tests/parity/parity_testing.h"
#include "tests/parity/preference_testing.h"

namespace finetuned::parity {
namespace {

using nlohmann::json;

struct Machine {
  std::shared_ptr<model::BaseModel> base;
  std::unique_ptr<lora::Adapter> adapter;
  std::unique_ptr<model::Decoder> decoder;

  Machine(at::Device device, at::ScalarType dtype) {
    const auto source = format::OpenModel(GoldenPath("untied"));
    auto loaded = model::LoadBaseModel(**source, GoldenPath("untied"), {device, dtype, plan::BaseFormat::kCompute});
    if (!loaded.ok()) throw std::runtime_error(std::string(loaded.status().message()));
    base = *loaded;
    adapter = LoadGoldenAdapter("untied_adapter", *base);
    adapter->RefreshCompute();
    decoder = std::make_unique<model::Decoder>(*base, *adapter, model::DecoderOptions{});
  }
};

struct Outcome {
  std::map<std::string, double> values;
  at::Tensor gradients;
};

class PreferenceGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
  void ExpectClose(const Outcome& got, const Outcome& want, double values, double gradients, const std::string& what) {
    for (const auto& [name, value] : want.values) {
      EXPECT_NEAR(got.values.at(name), value, values * std::max(1.0, std::abs(value))) << what << " " << name;
    }
    EXPECT_LT(RelativeError(got.gradients, want.gradients), gradients) << what;
  }
  c10::InferenceMode no_autograd_;
};

// One window of a run of the goldens.
Outcome PreferenceStep(Machine& m, const json& run, const data::TokenizedDataset& rows) {
  job::TrainSpec spec = PreferenceSpec(run, m.adapter->options());
  SetPreferenceOptions(run["options"], &spec);
  spec.schedule.micro_batch_size = 4;
  Recorder recorder;
  const auto method = train::MakeMethod({.spec = &spec, .base = m.base.get(), .decoder = m.decoder.get(),
                                         .device = m.base->options.device, .train = &rows, .observer = &recorder,
                                         .doing = [](std::string) {}});
  if (!method->Prepare().ok()) throw std::runtime_error("the method cannot be prepared");
  const data::BatchPlan plan(rows.rows, train::BatchOptions(spec), 0);
  train::Window window;
  window.batches.push_back(plan.Build(0));
  m.adapter->ZeroGradients();
  const at::Tensor measured = method->AccumulateGradients(window).cpu();
  return {method->StepValues(window, measured.const_data_ptr<double>()), m.adapter->gradients().cpu().clone()};
}

TEST_F(PreferenceGpu, EveryPairAndUnpairedLossEqualsTheCpu) {
  Machine cpu(at::kCPU, at::kFloat), f32(at::kCUDA, at::kFloat), bf16(at::kCUDA, at::kBFloat16);
  const data::TokenizedDataset pairs = PreferenceRows("dpo", data::Method::kDpo),
                               answers = PreferenceRows("kto", data::Method::kKto);
  for (const json& run : PreferenceGolden("losses")) {
    if (run["options"].value("precompute_ref_log_probs", false)) continue;  // device independent
    const auto& rows = run["method"] == "dpo" ? pairs : answers;
    const std::string name = run["name"];
    const Outcome truth = PreferenceStep(cpu, run, rows);
    ExpectClose(PreferenceStep(f32, run, rows), truth, 2e-4, 2e-3, name + " float32");
    // Losses are differences of sums of log probabilities, which bfloat16 gives to about 1e-2 a token; losses that sort
    // (aot) or that have a kink may take another branch.
    const Outcome narrow = PreferenceStep(bf16, run, rows);
    EXPECT_NEAR(narrow.values.at("loss"), truth.values.at("loss"), 0.05 * std::max(1.0, std::abs(truth.values.at("loss"))))
        << name << " bfloat16";
    EXPECT_TRUE(narrow.gradients.isfinite().all().item<bool>()) << name;
  }
}

// Two groups of completions, which share their prompts.
struct Completions {
  std::vector<data::TokenizedRow> rows;
  std::vector<int64_t> leaders, lengths;
  std::vector<double> advantages;

  explicit Completions(int64_t vocabulary) {
    data::SplitMix64 random(11);
    for (int64_t group = 0; group < 2; ++group) {
      std::vector<int32_t> prompt;
      for (int64_t t = 0; t < 12 + 20 * group; ++t) prompt.push_back(static_cast<int32_t>(random.Below(vocabulary)));
      for (int64_t i = 0; i < 4; ++i) {
        data::TokenizedRow row{prompt, std::vector<uint8_t>(prompt.size(), 0)};
        lengths.push_back(3 + 4 * i);
        for (int64_t t = 0; t < lengths.back(); ++t) row.input_ids.push_back(static_cast<int32_t>(random.Below(vocabulary)));
        row.trained.resize(row.input_ids.size(), 1);
        rows.push_back(row);
        leaders.push_back(4 * group);
        advantages.push_back(static_cast<double>(i) - 1.3);
      }
    }
  }
  data::PackedBatch Pack() const {
    std::vector<const data::TokenizedRow*> documents;
    for (const data::TokenizedRow& row : rows) documents.push_back(&row);
    return data::PackSharing(documents, leaders);
  }
};

Outcome PolicyStep(Machine& m, const grpo::LossOptions& options) {
  const Completions completions(m.base->config.vocab_size);
  const at::Device device = m.base->options.device;
  const data::PackedBatch packed = completions.Pack();
  if (packed.shared_tokens() == 0) throw std::runtime_error("nothing is shared");
  const model::DeviceBatch batch = model::Upload(packed, device);
  const model::LogProbOptions wanted = {.temperature = 0.9};
  grpo::PolicyLogProbs p;
  p.reference_M = m.decoder->LogProbs(batch, wanted, model::AdapterUse::kOff).log_probs_M;
  const model::TargetLogProbs policy = m.decoder->ForwardLogProbs(batch, wanted);
  p.policy_M = policy.log_probs_M;
  p.entropy_M = policy.entropy_M;
  at::Generator generator = at::detail::createCPUGenerator(1);
  p.old_M = policy.log_probs_M + at::randn(p.policy_M.sizes(), generator).to(device) * 0.2;
  const auto loss = grpo::PolicyLoss(grpo::MakeLossBatch(completions.lengths, completions.advantages, device), p,
                                     {1, static_cast<double>(packed.num_targets)}, options);
  m.adapter->ZeroGradients();
  m.decoder->BackwardLogProbs(batch, wanted, loss.d_M, std::nullopt, loss.d_entropy_M);
  Outcome out;
  out.gradients = m.adapter->gradients().cpu().clone();
  out.values["loss"] = loss.loss.item<double>();
  for (int64_t i = 0; i < grpo::kMetrics; ++i) out.values[grpo::kMetricNames[i]] = loss.metrics[i].item<double>();
  return out;
}

TEST_F(PreferenceGpu, EveryPolicyLossEqualsTheCpu) {
  Machine cpu(at::kCPU, at::kFloat), f32(at::kCUDA, at::kFloat), bf16(at::kCUDA, at::kBFloat16);
  for (const std::string& type : grpo::LossTypeNames()) {
    for (const bool sequence_level : {false, true}) {
      grpo::LossOptions options;
      options.type = *grpo::ParseLossType(type);
      options.sequence_level = sequence_level;
      options.beta = 0.05;
      options.max_completion_tokens = 20;
      options.entropy_coef = 0.1;
      const std::string name = type + (sequence_level ? " by sequence" : "");
      const Outcome truth = PolicyStep(cpu, options);
      ExpectClose(PolicyStep(f32, options), truth, 2e-4, 2e-3, name + " float32");
      const Outcome narrow = PolicyStep(bf16, options);
      EXPECT_NEAR(narrow.values.at("loss"), truth.values.at("loss"), 0.05 * std::max(1.0, std::abs(truth.values.at("loss"))))
          << name << " bfloat16";
      EXPECT_LT(RelativeError(narrow.gradients, truth.gradients), 0.1) << name << " bfloat16";
    }
  }
}

}  // namespace
}  // namespace finetuned::parity
