// Whole optimizer steps of GRPO, with prompts shared in a pass, against TRL (tests/golden/grpo/make_step_goldens.py).
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "engine/format/model_source.h"
#include "engine/grpo/loss_options.h"
#include "engine/train/rollout_journal.h"
#include "engine/train/trainer.h"
#include "tests/parity/parity_testing.h"

namespace finetuned::parity {
namespace {

using nlohmann::json;

constexpr double kTolerance = 1e-4;   // two engines in float32
constexpr char kIdentity[] = "null";  // of a trainer without one

// Gives the completions of the goldens what they were worth.
class GoldenScorer : public job::RemoteScorer {
 public:
  explicit GoldenScorer(const json& golden) : golden_(golden) {}
  void Ask(const job::ScoreQuestion&) override {}
  std::optional<job::ScoreAnswer> Wait(const std::string& batch_id, const std::function<bool()>&) override {
    int rollout = 0, group = 0;
    if (std::sscanf(batch_id.c_str(), "r%d-g%d", &rollout, &group) != 2) throw std::runtime_error(batch_id);
    const size_t size = golden_["group_size"];
    job::ScoreAnswer answer;
    for (size_t i = 0; i < size; ++i) {
      answer.scores["golden"].push_back(golden_["rollouts"][rollout][group * size + i]["reward"]);
    }
    return answer;
  }

 private:
  const json& golden_;
};

class GrpoParity : public testing::Test {
 protected:
  GrpoParity()
      : golden_(ReadGoldenJson("../grpo/steps.json")),
        base_(LoadGoldenModel("untied", /*nf4=*/false)),
        start_(LoadGoldenAdapter("untied_adapter", *base_)),
        tokenizer_(*(*format::OpenModel(GoldenPath("untied")))->LoadTokenizer()),
        scorer_(golden_) {
    for (const std::string text : golden_["prompts"]) {
      data::Prompt prompt;
      prompt.text = text;
      const auto tokens = tokenizer_->Encode(text);
      for (const text::Token& token : *tokens) prompt.ids.push_back(token.id);
      prompts_.prompts.push_back(std::move(prompt));
    }
  }

  job::TrainSpec Spec(const json& run) const {
    job::TrainSpec spec;
    spec.method = "grpo";
    spec.base_model_name = "untied";
    spec.base_quantization = "none";
    spec.state_dir = NewTemporaryDirectory("grpo_parity");
    const lora::Options& lora = start_->options();
    spec.lora = {lora.rank, lora.alpha, 0, lora.use_rslora, {}};
    for (lora::Target t : lora.targets) spec.lora.target_modules.push_back(lora::TargetName(t));
    spec.optimizer.kind = "adamw";
    spec.schedule.shuffle = false;
    spec.schedule.max_seq_length = 64;
    spec.schedule.micro_batch_size = run["micro_batch_size"];
    spec.schedule.gradient_accumulation_steps = run["accumulation"];
    job::GrpoOptions& g = spec.grpo;
    const json& o = run["options"];
    g.group_size = golden_["group_size"];
    g.max_completion_tokens = golden_["max_completion_tokens"];
    g.temperature = golden_["temperature"];
    g.updates_per_rollout = 2;
    g.remote_rewards = {"golden"};
    g.remote_weights = {1};
    g.loss_type = o.value("loss_type", g.loss_type);
    g.importance_sampling = o.value("importance_sampling_level", g.importance_sampling);
    g.clip_high = o.value("epsilon_high", g.clip_low);
    if (o.contains("delta")) g.delta = o["delta"].get<double>();
    g.beta = o.value("beta", 0.0);
    g.use_bias_correction_kl = o.value("use_bias_correction_kl", false);
    g.top_entropy_quantile = o.value("top_entropy_quantile", 1.0);
    g.entropy_coef = o.value("entropy_coef", 0.0);
    g.mask_truncated = o.value("mask_truncated_completions", false);
    g.advantage_scale = o.value("scale_rewards", "group");
    return spec;
  }

  // The completions of the goldens; those of a scored rollout with advantages and old log probabilities.
  grpo::Rollout Rollout(size_t index) const {
    grpo::Rollout rollout;
    rollout.index = static_cast<int64_t>(index);
    rollout.group_size = golden_["group_size"];
    for (size_t i = 0; i < prompts_.prompts.size(); ++i) rollout.prompts.push_back(static_cast<int64_t>(i));
    rollout.dropped.assign(prompts_.prompts.size(), 0);
    for (const json& given : golden_["rollouts"][index]) {
      grpo::RolloutCompletion c;
      c.tokens = given["tokens"].get<std::vector<int32_t>>();
      c.truncated = c.tokens.back() != base_->config.eos_token_ids.front();
      rollout.completions.push_back(std::move(c));
    }
    return rollout;
  }

  void Save(const job::TrainSpec& spec, const grpo::Rollout& rollout) const {
    ASSERT_TRUE(train::RolloutJournal(spec.state_dir, kIdentity).Save(rollout).ok());
  }

  static void ExpectMetrics(const std::map<std::string, double>& got, const json& want, double tolerance,
                            const std::string& where) {
    for (const auto& [name, value] : want.items()) {
      ASSERT_TRUE(got.contains(name)) << name << where;
      const double wanted = value.get<double>();
      EXPECT_NEAR(got.at(name), wanted, tolerance * std::max(1.0, std::abs(wanted))) << name << where;
    }
  }

  void ExpectOneStep(const json& run) {
    SCOPED_TRACE(run["name"].get<std::string>());
    const job::TrainSpec spec = Spec(run);
    grpo::Rollout rollout = Rollout(0);
    rollout.scored = true;
    for (size_t i = 0; i < rollout.completions.size(); ++i) {
      rollout.completions[i].advantage = run["advantages"][i];
      rollout.completions[i].old_log_probs = golden_["old"][i].get<std::vector<float>>();
    }
    Save(spec, rollout);
    Recorder recorder;
    job::RunControl control;
    model::Decoder decoder(*base_, *start_, {});
    train::MethodInputs in{.spec = &spec, .base = base_.get(), .adapter = start_.get(), .decoder = &decoder,
                           .rollouts = {tokenizer_.get(), &prompts_, nullptr, &scorer_}, .run_identity = kIdentity,
                           .observer = &recorder, .control = &control, .doing = [](std::string) {}};
    const auto method = train::MakeMethod(in);
    const auto window = method->MakeWindow(1, 0);
    ASSERT_TRUE(window.ok()) << window.status();
    EXPECT_TRUE(recorder.warnings.empty());
    EXPECT_EQ(static_cast<int64_t>(window->batches.size()), run["accumulation"].get<int64_t>());
    start_->ZeroGradients();
    const at::Tensor measured = method->AccumulateGradients(*window);
    ExpectMetrics(method->StepValues(*window, measured.const_data_ptr<double>()), run["step"], kTolerance, "");
    ExpectGradients(*start_, run["gradients"], kTolerance);
  }

  void ExpectRun(const json& run) {
    const json& s = run["settings"];
    job::TrainSpec spec = Spec(run);
    spec.optimizer.learning_rate = s["learning_rate"];
    spec.optimizer.weight_decay = s["weight_decay"];
    spec.optimizer.warmup_steps = s["warmup_steps"];
    spec.schedule.max_steps = s["max_steps"];
    for (size_t i = 0; i < golden_["rollouts"].size(); ++i) Save(spec, Rollout(i));
    Recorder recorder;
    job::RunControl control;
    const data::TokenizedDataset no_rows;
    train::Trainer trainer({.spec = &spec, .base = base_.get(), .train = &no_rows,
                            .rollouts = {tokenizer_.get(), &prompts_, nullptr, &scorer_}, .observer = &recorder,
                            .control = &control});
    trainer.adapter().parameters().copy_(start_->parameters());
    const auto result = trainer.Run(std::nullopt);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(recorder.warnings.empty()) << recorder.warnings.front();
    ASSERT_EQ(recorder.steps.size(), run["steps"].size());
    // Differences of rounding grow over the steps.
    for (size_t i = 0; i < recorder.steps.size(); ++i) {
      ExpectMetrics(recorder.steps[i], run["steps"][i], 5e-3, " of step " + std::to_string(i + 1));
    }
  }

  const c10::InferenceMode no_autograd_;
  const json golden_;
  const std::shared_ptr<model::BaseModel> base_;
  const std::unique_ptr<lora::Adapter> start_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  data::PromptSet prompts_;
  GoldenScorer scorer_;
};

TEST_F(GrpoParity, EveryLossItsMetricsAndGradientsEqualTrl) {
  std::set<std::string> types;
  for (const json& run : golden_["losses"]) {
    ExpectOneStep(run);
    types.insert(run["options"].value("loss_type", "dapo"));
  }
  EXPECT_EQ(types.size(), grpo::LossTypeNames().size());
}

TEST_F(GrpoParity, TwentyStepsEqualTrl) {
  ASSERT_EQ(golden_["trajectories"].size(), 2u);
  for (const json& run : golden_["trajectories"]) ExpectRun(run);
}

}  // namespace
}  // namespace finetuned::parity
