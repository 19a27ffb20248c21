// Tokens, losses, gradients and runs of DPO and KTO against TRL (tests/golden/preference).
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>

#include "engine/data/mismatched.h"
#include "engine/data/packing.h"
#include "engine/train/method.h"
#include "engine/train/trainer.h"
#include "tests/parity/parity_testing.h"
#include "tests/parity/preference_testing.h"

namespace finetuned::parity {
namespace {

using nlohmann::json;

// Two engines in float32.
constexpr double kTolerance = 1e-4;

std::vector<int32_t> Prompt(const data::TokenizedRow& row) {
  const auto first = std::find(row.trained.begin(), row.trained.end(), 1) - row.trained.begin();
  return {row.input_ids.begin(), row.input_ids.begin() + first};
}

// Of a row that is not truncated, or what is left of it.
std::vector<int32_t> Answer(const data::TokenizedRow& row) {
  return {row.input_ids.begin() + static_cast<ptrdiff_t>(Prompt(row).size()), row.input_ids.end()};
}

std::vector<int32_t> Cut(std::vector<int32_t> answer, size_t prompt, size_t limit) {
  answer.resize(std::min(answer.size(), limit - prompt));
  return answer;
}

void ExpectPairs(const data::TokenizedDataset& got, const json& want) {
  const size_t limit = PreferenceGolden("tokens")["max_length"];
  ASSERT_EQ(got.rows.size(), 2 * want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    for (size_t k = 0; k < 2; ++k) {
      const data::TokenizedRow& row = got.rows[2 * i + k];
      EXPECT_EQ(row.desirable, k == 0);
      EXPECT_EQ(Prompt(row), want[i][0].get<std::vector<int32_t>>()) << i;
      EXPECT_EQ(Answer(row), Cut(want[i][k + 1], want[i][0].size(), limit)) << i;
    }
  }
}

TEST(PreferenceTokens, OfPlainAndConversationalPairsEqualTrl) {
  const data::TokenizedDataset plain = PreferenceRows("dpo", data::Method::kDpo);
  ExpectPairs(plain, PreferenceGolden("tokens")["dpo"]);
  EXPECT_EQ(plain.stats.dropped_by_reason.at("PROMPT_TOO_LONG"), 1);
  ExpectPairs(PreferenceRows("chat", data::Method::kDpo), PreferenceGolden("tokens")["chat"]);
}

TEST(PreferenceTokens, OfUnpairedRowsAndTheirMismatchesEqualTrl) {
  const json golden = PreferenceGolden("tokens");
  const size_t limit = golden["max_length"];
  const data::TokenizedDataset got = PreferenceRows("kto", data::Method::kKto);
  ASSERT_EQ(got.rows.size(), golden["kto"].size());
  data::BatchPlanOptions options;
  options.micro_batch_size = 2;
  options.shuffle = false;
  const data::BatchPlan plan(got.rows, options, 0);
  std::vector<data::PackedBatch> window;
  for (int64_t i = 0; i < plan.micro_batches(); ++i) window.push_back(plan.Build(i));
  const auto mismatched = data::MismatchedBatches(got.rows, window, static_cast<int64_t>(limit));
  for (size_t i = 0; i < got.rows.size(); ++i) {
    const json& want = golden["kto"][i];
    EXPECT_EQ(Prompt(got.rows[i]), want[0].get<std::vector<int32_t>>());
    EXPECT_EQ(Answer(got.rows[i]), Cut(want[1], want[0].size(), limit));
    std::vector<int32_t> whole = want[0];
    for (int32_t id : Cut(want[2], whole.size(), limit)) whole.push_back(id);
    const data::PackedBatch& batch = mismatched[i / 2];
    EXPECT_EQ(std::vector<int32_t>(batch.input_ids.begin() + batch.cu_seqlens[i % 2],
                                   batch.input_ids.begin() + batch.cu_seqlens[i % 2 + 1]),
              whole)
        << i;
  }
}

// |got - want| against the size of the numbers.
void ExpectClose(double got, double want, const std::string& what) {
  EXPECT_NEAR(got, want, kTolerance * std::max(1.0, std::abs(want))) << what;
}

class PreferenceParity : public testing::Test {
 protected:
  PreferenceParity() : base_(LoadGoldenModel("untied", /*nf4=*/false)), start_(LoadGoldenAdapter("untied_adapter", *base_)) {}

  // One window through the method.
  void ExpectOneStep(const json& run, const data::TokenizedDataset& rows) {
    SCOPED_TRACE(run["name"].get<std::string>());
    job::TrainSpec spec = PreferenceSpec(run, start_->options());
    SetPreferenceOptions(run["options"], &spec);
    spec.schedule.micro_batch_size = run["micro_batch_size"];
    Recorder recorder;
    model::Decoder decoder(*base_, *start_, {});
    const auto method = train::MakeMethod({.spec = &spec, .decoder = &decoder, .train = &rows,
                                           .observer = &recorder, .doing = [](std::string) {}});
    ASSERT_TRUE(method->Prepare().ok());
    const data::BatchPlan plan(rows.rows, train::BatchOptions(spec), 0);
    train::Window window;
    for (int64_t i = 0; i < run["accumulation"].get<int64_t>(); ++i) window.batches.push_back(plan.Build(i));
    start_->ZeroGradients();
    const at::Tensor measured = method->AccumulateGradients(window);
    const auto values = method->StepValues(window, measured.const_data_ptr<double>());
    for (const auto& [name, want] : run["step"].items()) {
      if (name == "grad_norm" || (spec.method == "kto" && name == "mean_token_accuracy")) continue;
      ASSERT_TRUE(values.contains(name)) << name;
      ExpectClose(values.at(name), want, name);
    }
    ExpectGradients(*start_, run["gradients"], kTolerance);
  }

  // A whole run from start_. reference: null, the base.
  void ExpectRun(const json& run, const lora::Adapter* reference) {
    SCOPED_TRACE(run["method"].get<std::string>());
    const json& s = run["settings"];
    job::TrainSpec spec = PreferenceSpec(run, start_->options());
    spec.optimizer.kind = "adamw";
    spec.optimizer.learning_rate = s["learning_rate"];
    spec.optimizer.weight_decay = s["weight_decay"];
    spec.optimizer.warmup_steps = s["warmup_steps"];
    spec.schedule.max_steps = s["max_steps"];
    spec.schedule.micro_batch_size = s["per_device_train_batch_size"];
    spec.schedule.gradient_accumulation_steps = s["gradient_accumulation_steps"];
    const data::TokenizedDataset rows =
        PreferenceRows(spec.method, spec.method == "dpo" ? data::Method::kDpo : data::Method::kKto);
    Recorder recorder;
    job::RunControl control;
    train::Trainer trainer({.spec = &spec, .base = base_.get(), .train = &rows, .reference = reference, .observer = &recorder,
                            .control = &control});
    trainer.adapter().parameters().copy_(start_->parameters());
    const auto result = trainer.Run(std::nullopt);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(recorder.steps.size(), run["steps"].size());
    for (size_t i = 0; i < recorder.steps.size(); ++i) {
      for (const auto& [name, want] : run["steps"][i].items()) {
        if (spec.method == "kto" && name == "mean_token_accuracy") continue;
        ASSERT_TRUE(recorder.steps[i].contains(name)) << name;
        const double wanted = want.get<double>();
        if (spec.method == "dpo" && name == "num_tokens") {
          EXPECT_LT(recorder.steps[i][name], wanted) << "prompts are computed twice in step " << i + 1;
          continue;
        }
        // Differences of rounding grow over the steps.
        EXPECT_NEAR(recorder.steps[i][name], wanted, 5e-3 * std::max(1.0, std::abs(wanted))) << name << " of step " << i + 1;
      }
    }
  }

  c10::InferenceMode no_autograd_;
  const std::shared_ptr<model::BaseModel> base_;
  const std::unique_ptr<lora::Adapter> start_;
};

TEST_F(PreferenceParity, EveryLossItsMetricsAndGradientsEqualTrl) {
  const data::TokenizedDataset pairs = PreferenceRows("dpo", data::Method::kDpo);
  const data::TokenizedDataset answers = PreferenceRows("kto", data::Method::kKto);
  std::set<std::string> types;
  const json runs = PreferenceGolden("losses");
  for (const json& run : runs) {
    ExpectOneStep(run, run["method"] == "dpo" ? pairs : answers);
    if (run["method"] != "dpo") continue;
    for (const json& type : run["options"].value("loss_type", json::array({"sigmoid"}))) types.insert(type);
  }
  EXPECT_EQ(types.size(), 15u);
}

TEST_F(PreferenceParity, TwentyStepsEqualTrl) {
  for (const json& run : PreferenceGolden("trajectories")) ExpectRun(run, nullptr);
}

// TRL keeps a copy of the adapter that it starts from as the reference.
TEST_F(PreferenceParity, StepsFromATrainedAdapterEqualTrl) {
  lora::Adapter reference(base_->config, start_->options(), at::kCPU, at::kFloat, /*trainable=*/false);
  reference.parameters().copy_(start_->parameters());
  const json runs = PreferenceGolden("start_adapter");
  EXPECT_EQ(runs.size(), 2u);
  for (const json& run : runs) ExpectRun(run, &reference);
}

}  // namespace
}  // namespace finetuned::parity
