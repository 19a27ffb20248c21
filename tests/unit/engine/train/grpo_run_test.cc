// Whole GRPO runs through RunTraining, on the tiny golden model and rows written here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "tests/unit/engine/train/run_testing.h"

namespace finetuned::train {
namespace {

using job::Outcome;
using testing::Contains;
using testing::HasSubstr;

class SampleRecorder : public parity::Recorder {
 public:
  void OnSample(const job::SampleOutput& sample) override {
    samples.push_back(sample);
    if (on_sample) on_sample(sample);
  }
  std::vector<job::SampleOutput> samples;
  std::function<void(const job::SampleOutput&)> on_sample;
};

// Rewards from outside that nobody could compute twice: a batch that is asked again gets other scores.
class UnrepeatableScorer : public job::RemoteScorer {
 public:
  void Ask(const job::ScoreQuestion& question) override {
    ++asked[question.batch_id];
    questions[question.batch_id] = question;
  }
  std::optional<job::ScoreAnswer> Wait(const std::string& batch_id, const std::function<bool()>& stop) override {
    if (before_answer) before_answer(batch_id);
    if (stop()) return std::nullopt;
    job::ScoreAnswer answer;
    if (fail.contains(batch_id)) {
      answer.error = "ZeroDivisionError";
      return answer;
    }
    std::vector<double>& scores = answer.scores["mine"];
    for (const job::ScoreItem& item : questions.at(batch_id).items) {
      scores.push_back(std::sin(static_cast<double>(item.completion.size()) + item.completion_index +
                                100 * asked[batch_id]));
    }
    if (abstain) scores[0] = std::nan("");
    return answer;
  }
  std::map<std::string, int> asked;
  std::map<std::string, job::ScoreQuestion> questions;
  std::set<std::string> fail;
  bool abstain = false;
  std::function<void(const std::string&)> before_answer;
};

class GrpoRunTest : public RunFixture {
 protected:
  GrpoRunTest() {
    const auto row = [](int i) { return absl::StrCat("{\"prompt\": \"question ", i, "\", \"answer\": \"", i, "\"}"); };
    for (const char* name : {"rows.jsonl", "eval.jsonl"}) WriteRows(name, 8, row);
  }

  // Four groups of four, two micro-batches a step.
  job::TrainSpec Spec(const std::string& state) const {
    job::TrainSpec spec = TinySpec(state);
    spec.method = "grpo";
    spec.lora.rank = 16;
    spec.optimizer.kind = "adamw";
    spec.optimizer.scheduler = "constant";
    spec.optimizer.learning_rate = 5e-3;
    spec.schedule.max_steps = 4;
    spec.schedule.micro_batch_size = 8;
    spec.schedule.gradient_accumulation_steps = 2;
    spec.schedule.max_seq_length = 64;
    spec.grpo.group_size = 4;
    spec.grpo.max_completion_tokens = 8;
    spec.grpo.builtin_rewards = {{"regex", 1, {{"pattern", "[aeiou]"}}}};
    return spec;
  }
  job::TrainSpec RemoteSpec(const std::string& state) const {
    job::TrainSpec spec = Spec(state);
    spec.grpo.builtin_rewards.clear();
    spec.grpo.remote_rewards = {"mine"};
    spec.grpo.remote_weights = {1};
    return spec;
  }
  job::RunResult Go(const job::TrainSpec& spec, SampleRecorder* recorder, job::RemoteScorer* scorer = nullptr) {
    control_.leave = control_.cancel = control_.finish = false;
    return RunTraining(spec, *recorder, control_, nullptr, nullptr, scorer);
  }
};

double MeanReward(const SampleRecorder& recorder, size_t first, size_t count) {
  double sum = 0;
  for (size_t i = first; i < first + count; ++i) sum += recorder.steps.at(i).at("reward");
  return sum / static_cast<double>(count);
}

TEST_F(GrpoRunTest, MeanRewardRises) {
  job::TrainSpec spec = Spec("s");
  spec.schedule.max_steps = 40;
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.evaluation.before_training = true;
  SampleRecorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  ASSERT_EQ(result.outcome, Outcome::kDone) << result.reason << ": " << result.message;
  EXPECT_GT(MeanReward(recorder, 30, 10), MeanReward(recorder, 0, 10) + 0.2);
  ASSERT_EQ(recorder.evals.size(), 2u);
  EXPECT_TRUE(recorder.evals[0].contains("eval_reward"));
  for (const char* key :
       {"loss", "reward", "reward_std", "frac_reward_zero_std", "rewards/regex/mean", "rewards/regex/std", "entropy",
        "clip_ratio/low_mean", "clip_ratio/region_mean", "completions/mean_length", "completions/clipped_ratio",
        "completions/max_terminated_length", "rewards/zero_spread_groups", "rollout/generate_time", "num_tokens"}) {
    EXPECT_TRUE(recorder.steps[0].contains(key)) << key;
  }
  EXPECT_FALSE(recorder.steps[0].contains("kl")) << "no reference is run without beta";
  EXPECT_EQ(recorder.samples.size(), 40u * 4);
  EXPECT_TRUE(recorder.samples[0].rewards.contains("regex"));
  EXPECT_TRUE(std::filesystem::exists(result.adapter_dir + "/adapter_model.safetensors"));
}

// On the first step the adapter is the base: the reference equals the policy.
TEST_F(GrpoRunTest, KlToTheBaseStartsAtZeroAndGrows) {
  job::TrainSpec spec = Spec("s");
  spec.grpo.beta = 0.04;
  spec.schedule.max_steps = 6;
  SampleRecorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  EXPECT_NEAR(recorder.steps[0].at("kl"), 0, 1e-6);
  EXPECT_GT(recorder.steps[5].at("kl"), 1e-5);
}

TEST_F(GrpoRunTest, AStartAdapterIsTheReference) {
  job::TrainSpec spec = Spec("first");
  spec.schedule.max_steps = 1;
  SampleRecorder first, second;
  ASSERT_EQ(Go(spec, &first).outcome, Outcome::kDone);
  spec.state_dir = root_ + "/second";
  spec.init_adapter_path = root_ + "/first/adapter";
  spec.grpo.beta = 0.04;
  spec.schedule.max_steps = 6;
  ASSERT_EQ(Go(spec, &second).outcome, Outcome::kDone);
  EXPECT_NEAR(second.steps[0].at("kl"), 0, 1e-6);
  EXPECT_GT(second.steps[5].at("kl"), 1e-6);
}

TEST_F(GrpoRunTest, AnEntropyBonusKeepsTheEntropyUp) {
  job::TrainSpec spec = Spec("plain");
  spec.schedule.max_steps = 12;
  SampleRecorder plain, bonus;
  ASSERT_EQ(Go(spec, &plain).outcome, Outcome::kDone);
  spec.state_dir = root_ + "/bonus";
  spec.grpo.entropy_coef = 2;
  ASSERT_EQ(Go(spec, &bonus).outcome, Outcome::kDone);
  EXPECT_GT(bonus.steps[11].at("entropy"), plain.steps[11].at("entropy"));
  EXPECT_EQ(bonus.steps[0].at("entropy_coef"), 2);
  EXPECT_NEAR(bonus.steps[0].at("loss"), bonus.steps[0].at("policy_loss") - 2 * bonus.steps[0].at("entropy"), 1e-4);
  EXPECT_FALSE(plain.steps[0].contains("policy_loss"));
}

// Groups are sent to be scored as they end: those of the first half of the sequences long before the last.
TEST_F(GrpoRunTest, ScoringOverlapsTheSamplingOfLaterGroups) {
  class TimingScorer : public UnrepeatableScorer {
   public:
    void Ask(const job::ScoreQuestion& question) override {
      times.push_back(std::chrono::steady_clock::now());
      UnrepeatableScorer::Ask(question);
    }
    std::vector<std::chrono::steady_clock::time_point> times;
  };
  job::TrainSpec spec = RemoteSpec("s");
  spec.schedule.max_steps = 1;
  spec.schedule.micro_batch_size = 64;
  spec.grpo.group_size = 16;
  spec.grpo.max_completion_tokens = 24;
  SampleRecorder recorder;
  TimingScorer scorer;  // 128 sequences, 64 at a time
  ASSERT_EQ(Go(spec, &recorder, &scorer).outcome, Outcome::kDone);
  ASSERT_EQ(scorer.times.size(), 8u);
  const double ahead = std::chrono::duration<double>(scorer.times.back() - scorer.times.front()).count();
  EXPECT_GT(ahead, 0.25 * recorder.steps[0].at("rollout/generate_time"));
}

TEST_F(GrpoRunTest, EvaluationsReportAnswers) {
  job::TrainSpec spec = Spec("s");
  spec.schedule.max_steps = 1;
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.evaluation.sample_prompts = 3;
  spec.grpo.samples_per_rollout = 0;
  SampleRecorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  ASSERT_EQ(recorder.samples.size(), 3u);
  EXPECT_EQ(recorder.samples[2].prompt_id, "eval-line-6");
  EXPECT_EQ(recorder.samples[2].step, 1);
  EXPECT_TRUE(recorder.samples[2].rewards.contains("regex"));
}

TEST_F(GrpoRunTest, ResumedRunTakesTheSameStepsThoughRewardsCannotBeRepeated) {
  UnrepeatableScorer whole_scorer, scorer;
  SampleRecorder whole;
  ASSERT_EQ(Go(RemoteSpec("whole"), &whole, &whole_scorer).outcome, Outcome::kDone);

  job::TrainSpec spec = RemoteSpec("parts");
  spec.checkpoints.every_steps = 2;
  // Killed between the rewards of step 4 and the step.
  SampleRecorder first, second;
  first.on_sample = [](const job::SampleOutput& sample) {
    if (sample.step == 4) throw std::runtime_error("killed");
  };
  EXPECT_EQ(Go(spec, &first, &scorer).outcome, Outcome::kInternal);
  EXPECT_EQ(first.steps.size(), 3u);
  ASSERT_EQ(Go(spec, &second, &scorer).outcome, Outcome::kDone);
  EXPECT_EQ(second.first_step, 2);
  for (const auto& [batch, times] : scorer.asked) EXPECT_EQ(times, 1) << batch;
  EXPECT_EQ(AdapterBytes("parts"), AdapterBytes("whole"));
  EXPECT_EQ(second.steps[1].at("reward"), whole.steps[3].at("reward"));
}

TEST_F(GrpoRunTest, SeveralUpdatesOfARolloutResumeInItsMiddle) {
  job::TrainSpec spec = Spec("whole");
  spec.grpo.prompts_per_rollout = 8;  // two windows
  spec.grpo.updates_per_rollout = 2;
  spec.schedule.max_steps = 8;        // two rollouts
  SampleRecorder whole, first, second;
  ASSERT_EQ(Go(spec, &whole).outcome, Outcome::kDone);
  EXPECT_EQ(whole.samples.size(), 2u * 4) << "two rollouts";
  EXPECT_NEAR(whole.steps[0].at("clip_ratio/region_mean"), 0, 1e-9) << "still the policy that sampled";

  spec.state_dir = root_ + "/parts";
  first.after_step = [&](int64_t step) { control_.leave = step == 3; };
  EXPECT_EQ(Go(spec, &first).outcome, Outcome::kCheckpointed);
  ASSERT_EQ(Go(spec, &second).outcome, Outcome::kDone);
  EXPECT_EQ(AdapterBytes("parts"), AdapterBytes("whole"));
}

TEST_F(GrpoRunTest, LeavesWhileItWaitsForRewardsAndKeepsTheCompletions) {
  UnrepeatableScorer scorer;
  job::TrainSpec spec = RemoteSpec("s");
  spec.schedule.max_steps = 1;
  scorer.before_answer = [&](const std::string&) { control_.leave = true; };
  SampleRecorder first, second;
  const job::RunResult left = Go(spec, &first, &scorer);
  EXPECT_EQ(left.outcome, Outcome::kCheckpointed) << left.message;
  EXPECT_EQ(left.last_step, 0);
  const auto asked = scorer.questions;
  scorer.before_answer = nullptr;
  ASSERT_EQ(Go(spec, &second, &scorer).outcome, Outcome::kDone);
  ASSERT_EQ(asked.size(), 4u);
  for (const auto& [batch, question] : asked) {
    EXPECT_EQ(scorer.asked.at(batch), 2);
    for (size_t i = 0; i < question.items.size(); ++i) {
      EXPECT_EQ(scorer.questions.at(batch).items[i].tokens, question.items[i].tokens) << "not sampled again";
    }
  }
}

TEST_F(GrpoRunTest, GroupsThatCannotBeScoredAreLeftOutAndCounted) {
  UnrepeatableScorer scorer;
  scorer.fail = {"r0-g1"};
  scorer.abstain = true;
  job::TrainSpec spec = RemoteSpec("s");
  spec.schedule.max_steps = 1;
  SampleRecorder recorder;
  ASSERT_EQ(Go(spec, &recorder, &scorer).outcome, Outcome::kDone);
  EXPECT_EQ(recorder.steps[0].at("rewards/dropped_groups"), 1);
  EXPECT_EQ(recorder.steps[0].at("rewards/abstained"), 3 + 4);
  EXPECT_THAT(recorder.warnings, Contains(HasSubstr("could not be scored and are left out: ZeroDivisionError")));
}

TEST_F(GrpoRunTest, EndsWhenNothingGetsAScore) {
  UnrepeatableScorer scorer;
  job::TrainSpec spec = RemoteSpec("s");
  spec.schedule.max_steps = 9;
  // The first rollout is scored, later ones are not.
  for (int rollout = 1; rollout < 9; ++rollout) {
    for (int group = 0; group < 4; ++group) scorer.fail.insert(absl::StrCat("r", rollout, "-g", group));
  }
  SampleRecorder recorder;
  const job::RunResult result = Go(spec, &recorder, &scorer);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_EQ(result.reason, "REWARDS_FAILED");
  EXPECT_THAT(result.message, HasSubstr("no completion of 5 rollouts in a row got a score, the last is rollout 5"));
  EXPECT_EQ(recorder.steps.size(), 5u);
}

TEST_F(GrpoRunTest, StopsEarlyWithTheAdapterOfTheBestEvaluation) {
  job::TrainSpec spec = Spec("s");
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.grpo.builtin_rewards = {{"length", 1, {{"max", "2"}, {"slack", "8"}}}};
  ExpectStopsEarlyWithTheBestAdapter(spec, "eval_rewards/length/mean", true);
}

TEST_F(GrpoRunTest, ADamagedRolloutIsSampledAgainWithAWarning) {
  job::TrainSpec spec = Spec("s");
  spec.schedule.max_steps = 1;
  SampleRecorder first, second;
  first.on_sample = [](const job::SampleOutput&) { throw std::runtime_error("killed"); };
  EXPECT_EQ(Go(spec, &first).outcome, Outcome::kInternal);
  const std::string path = spec.state_dir + "/rollouts/rollout-00000000.json";
  std::string text = parity::FileBytes(path);
  ASSERT_FALSE(text.empty());
  text[text.size() / 2] ^= 1;
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(Go(spec, &second).outcome, Outcome::kDone);
  EXPECT_THAT(second.warnings, Contains(HasSubstr("is damaged; the rollout is sampled again")));
}

TEST_F(GrpoRunTest, SaysWhatIsWrongWithTheJob) {
  const auto expect = [&](const job::TrainSpec& spec, Outcome outcome, const std::string& text) {
    SampleRecorder recorder;
    const job::RunResult result = Go(spec, &recorder);
    EXPECT_EQ(result.outcome, outcome) << result.message;
    EXPECT_THAT(result.message, HasSubstr(text));
  };
  job::TrainSpec spec = Spec("s");
  spec.grpo.builtin_rewards = {{"numerc", 1, {}}};
  expect(spec, Outcome::kBadConfig, "grpo.builtin_rewards: there is no reward \"numerc\"");
  spec.grpo.builtin_rewards = {{"numeric", 1, {{"column", "solution"}}}};
  expect(spec, Outcome::kBadData, "rows.jsonl line 1, field solution: is missing; the reward numeric reads it");
  spec.grpo.builtin_rewards.clear();
  expect(spec, Outcome::kBadConfig, "at least one reward");
  expect(RemoteSpec("s"), Outcome::kBadConfig, "need the daemon");
  spec = Spec("s");
  spec.grpo.group_size = 3;
  expect(spec, Outcome::kBadConfig, "which is not a multiple of the group of 3");
  spec = Spec("s");
  spec.grpo.prompts_per_rollout = 12;
  expect(spec, Outcome::kBadConfig, "a rollout samples 12 prompts, the dataset has 8");
  spec = Spec("s");
  spec.grpo.max_completion_tokens = 64;
  expect(spec, Outcome::kBadConfig, "leave no room for a prompt");
  spec.grpo.max_completion_tokens = 62;
  expect(spec, Outcome::kBadData, "no prompt has between 1 and 2 tokens");
}

}  // namespace
}  // namespace finetuned::train
