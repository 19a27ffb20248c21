// Whole DPO and KTO runs through RunTraining, on the tiny golden model and rows written here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "engine/train/reference_file.h"
#include "tests/unit/engine/train/run_testing.h"

namespace finetuned::train {
namespace {

using job::Outcome;
using parity::Recorder;
using testing::Contains;
using testing::HasSubstr;

class PreferenceRun : public RunFixture {
 protected:
  PreferenceRun() {
    // Good answers end in a, bad ones in b.
    std::ofstream pairs(root_ + "/dpo.jsonl"), held(root_ + "/held.jsonl"), answers(root_ + "/kto.jsonl");
    for (int i = 0; i < 9; ++i) {
      const std::string prompt = "question " + std::to_string(i * 7);
      const std::string good = " so " + std::string(2 + i % 4, 'a'), bad = " no " + std::string(2 + i % 3, 'b');
      (i < 7 ? pairs : held) << "{\"prompt\": \"" << prompt << "\", \"chosen\": \"" << good << "\", \"rejected\": \""
                             << bad << "\"}\n";
      answers << "{\"prompt\": \"" << prompt << "\", \"completion\": \"" << (i % 2 ? good : bad)
              << "\", \"label\": " << (i % 2 ? "true" : "false") << "}\n";
    }
  }

  job::TrainSpec Spec(const std::string& method, const std::string& state) const {
    job::TrainSpec spec = TinySpec(state);
    spec.method = method;
    spec.dataset_path = root_ + "/" + method + ".jsonl";
    spec.lora.rank = 64;
    spec.lora.alpha = 64;
    spec.optimizer.learning_rate = 1e-3;
    spec.schedule.epochs = 4;
    spec.schedule.micro_batch_size = 2;
    spec.schedule.gradient_accumulation_steps = 2;
    spec.schedule.max_seq_length = 64;
    return spec;
  }

  job::RunResult Go(const job::TrainSpec& spec, Recorder* recorder) { return RunTraining(spec, *recorder, control_); }

  // Leaves after step 3 and comes back; the adapter is that of a run without the break.
  void ExpectResumeIsExact(const job::TrainSpec& whole, job::TrainSpec parts, const std::string& state) {
    Recorder undisturbed, first, second;
    ASSERT_EQ(Go(whole, &undisturbed).outcome, Outcome::kDone);
    parts.state_dir = root_ + "/" + state;
    first.after_step = [&](int64_t step) { control_.leave = step == 3; };
    ASSERT_EQ(Go(parts, &first).outcome, Outcome::kCheckpointed);
    control_.leave = false;
    ASSERT_EQ(Go(parts, &second).outcome, Outcome::kDone);
    EXPECT_EQ(second.first_step, 3);
    EXPECT_EQ(parity::FileBytes(whole.state_dir + "/adapter/adapter_model.safetensors"), AdapterBytes(state));
  }
};

TEST_F(PreferenceRun, DpoLearnsThePreferenceAlsoOfHeldOutPairs) {
  job::TrainSpec spec = Spec("dpo", "s");
  spec.eval_dataset_path = root_ + "/held.jsonl";
  spec.evaluation.before_training = true;
  spec.schedule.epochs = 12;
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  ASSERT_EQ(result.outcome, Outcome::kDone) << result.message;
  EXPECT_NEAR(recorder.steps.front()["loss"], std::log(2), 1e-6);  // policy and reference are equal
  EXPECT_EQ(recorder.steps.front()["rewards/margins"], 0);
  EXPECT_LT(recorder.steps.back()["loss"], 0.3);
  EXPECT_EQ(recorder.evals.front()["eval_rewards/accuracies"], 0);
  EXPECT_EQ(recorder.evals.back()["eval_rewards/accuracies"], 1);
  EXPECT_GT(recorder.evals.back()["eval_rewards/margins"], 0.5);
}

TEST_F(PreferenceRun, ResumedRunsEqualUninterruptedOnesByteForByte) {
  job::TrainSpec dpo = Spec("dpo", "dpo");
  ExpectResumeIsExact(dpo, dpo, "dpo_parts");
  dpo.state_dir = root_ + "/precomputed";
  dpo.dpo.precompute_reference = true;
  ExpectResumeIsExact(dpo, dpo, "precomputed_parts");
  EXPECT_EQ(AdapterBytes("dpo"), AdapterBytes("precomputed"));
  const job::TrainSpec kto = Spec("kto", "kto");
  ExpectResumeIsExact(kto, kto, "kto_parts");
}

TEST_F(PreferenceRun, AKeptReferenceServesEveryJobWithTheSameRowsAndBase) {
  const auto computes = [&](job::TrainSpec spec, const std::string& state) {
    spec.state_dir = root_ + "/" + state;
    spec.reference_dir = root_ + "/reference";
    spec.schedule.max_steps = 2;
    Recorder recorder;
    const job::RunResult result = Go(spec, &recorder);
    EXPECT_EQ(result.outcome, Outcome::kDone) << result.message;
    return testing::Value(recorder.phases, Contains("computing reference"));
  };
  job::TrainSpec spec = Spec("dpo", "");
  spec.dpo.precompute_reference = true;
  EXPECT_TRUE(computes(spec, "first"));
  EXPECT_FALSE(computes(spec, "second"));
  EXPECT_EQ(AdapterBytes("first"), AdapterBytes("second"));
  spec.optimizer.learning_rate = 5e-4;
  spec.dpo.loss_types = {"ipo"};
  EXPECT_FALSE(computes(spec, "other_loss"));
  job::TrainSpec other = spec;
  other.base_quantization = "none";
  EXPECT_TRUE(computes(other, "other_base"));
  other = spec;
  other.dpo.ld_alpha = 0.5;
  EXPECT_TRUE(computes(other, "other_weights"));
  other = spec;
  other.init_adapter_path = root_ + "/first/adapter";
  EXPECT_TRUE(computes(other, "other_reference"));
  other = spec;
  other.dataset_path = root_ + "/held.jsonl";
  EXPECT_TRUE(computes(other, "other_rows"));
  EXPECT_FALSE(computes(spec, "again"));
}

TEST_F(PreferenceRun, OfKeptReferencesTheOldestMakesRoom) {
  const job::TrainSpec spec = Spec("dpo", "s");
  std::vector<ReferenceFile> files;
  for (int i = 0; i <= kReferenceFilesKept; ++i) {
    files.emplace_back(MethodInputs{.spec = &spec, .reference_fingerprint = std::to_string(i)}, data::TokenizedDataset());
    ASSERT_TRUE(files.back().Write({0.5 + i}).ok());
    if (i == 1) EXPECT_TRUE(files.front().Read(1));  // used again: the second is older now
  }
  EXPECT_EQ(files.front().Read(1), std::vector<double>{0.5});
  EXPECT_FALSE(files[1].Read(1));
  EXPECT_EQ(files.back().Read(1), std::vector<double>{0.5 + kReferenceFilesKept});
  EXPECT_FALSE(files.back().Read(2)) << "of so many rows";
}

TEST_F(PreferenceRun, KtoTrainsWithEveryBatchSizeAndWithPairs) {
  for (const auto& [micro_batch, accumulation, data] :
       {std::tuple{1, 1, "kto"}, {1, 4, "kto"}, {9, 1, "kto"}, {3, 2, "dpo"}}) {
    SCOPED_TRACE(std::to_string(micro_batch) + " x " + std::to_string(accumulation) + " of " + data);
    job::TrainSpec spec = Spec("kto", "s" + std::to_string(micro_batch) + std::to_string(accumulation));
    spec.dataset_path = root_ + "/" + data + ".jsonl";
    spec.eval_dataset_path = root_ + "/held.jsonl";
    spec.schedule.micro_batch_size = micro_batch;
    spec.schedule.gradient_accumulation_steps = accumulation;
    Recorder recorder;
    const job::RunResult result = Go(spec, &recorder);
    ASSERT_EQ(result.outcome, Outcome::kDone) << result.message;
    for (auto& step : recorder.steps) {
      for (const auto& [name, value] : step) EXPECT_TRUE(std::isfinite(value)) << name;
      EXPECT_GE(step["kl"], 0);
    }
    EXPECT_GT(recorder.evals.back()["eval_rewards/margins"], 0);
  }
}

TEST_F(PreferenceRun, KtoSaysWhatItThinksOfTheLabels) {
  std::ofstream many(root_ + "/many.jsonl"), one(root_ + "/one.jsonl");
  for (int i = 0; i < 8; ++i) {
    const std::string row = "{\"prompt\": \"p" + std::to_string(i) + "\", \"completion\": \" c\", \"label\": ";
    many << row << (i < 6 ? "true" : "false") << "}\n";
    one << row << "true}\n";
  }
  many.close();
  one.close();
  job::TrainSpec spec = Spec("kto", "many");
  spec.schedule.max_steps = 1;
  spec.dataset_path = root_ + "/many.jsonl";
  Recorder unbalanced, balanced, single;
  ASSERT_EQ(Go(spec, &unbalanced).outcome, Outcome::kDone);
  EXPECT_THAT(unbalanced.warnings, Contains(HasSubstr("6 rows are desirable and 2 are not")));
  EXPECT_THAT(unbalanced.warnings, Contains(HasSubstr("desirable_weight in [0.33, 0.44]")));
  EXPECT_THAT(unbalanced.warnings, Contains(HasSubstr("undesirable_weight in [2.26, 3.00], not both")));
  spec.kto.undesirable_weight = 2.5;
  spec.state_dir = root_ + "/balanced";
  ASSERT_EQ(Go(spec, &balanced).outcome, Outcome::kDone);
  EXPECT_TRUE(balanced.warnings.empty());
  spec.dataset_path = root_ + "/one.jsonl";
  spec.state_dir = root_ + "/one";
  ASSERT_EQ(Go(spec, &single).outcome, Outcome::kDone);
  EXPECT_THAT(single.warnings, Contains(HasSubstr("there is no undesirable row")));
  EXPECT_TRUE(std::isfinite(single.steps.back()["loss"]));
  EXPECT_FALSE(single.steps.back().contains("rewards/rejected"));
}

TEST_F(PreferenceRun, KtoWithAKeptReferenceEndsWithTheSameAdapter) {
  job::TrainSpec spec = Spec("kto", "kept");
  spec.eval_dataset_path = root_ + "/held.jsonl";
  spec.kto.precompute_reference = true;
  ExpectResumeIsExact(spec, spec, "kept_parts");
  spec.kto.precompute_reference = false;
  spec.state_dir = root_ + "/beside";
  Recorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  EXPECT_EQ(AdapterBytes("kept"), AdapterBytes("beside"));
}

TEST_F(PreferenceRun, StartsFromAnAdapterThatIsAlsoTheReference) {
  Recorder first;
  ASSERT_EQ(Go(Spec("dpo", "first"), &first).outcome, Outcome::kDone);
  for (const char* method : {"dpo", "kto"}) {
    SCOPED_TRACE(method);
    job::TrainSpec spec = Spec(method, std::string("more_") + method);
    spec.init_adapter_path = root_ + "/first/adapter";
    Recorder recorder;
    ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
    // Compared with the base they would be far apart.
    EXPECT_NEAR(recorder.steps.front()["rewards/chosen"], 0, 1e-6);
    EXPECT_NEAR(recorder.steps.front()["logps/chosen"], method == std::string("dpo") ? first.steps.back()["logps/chosen"]
                                                                                     : recorder.steps.front()["logps/chosen"], 3);
    EXPECT_NE(recorder.steps.back()["rewards/chosen"], 0);
    if (method == std::string("dpo")) {
      EXPECT_GT(recorder.steps.front()["memory_planned_bytes"], first.steps.front()["memory_planned_bytes"]);
    }
    ExpectResumeIsExact(spec, spec, std::string("parts_") + method);
  }
  job::TrainSpec spec = Spec("dpo", "other");
  spec.init_adapter_path = root_ + "/first/adapter";
  spec.lora.rank = 8;
  Recorder refused;
  job::RunResult result = Go(spec, &refused);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_THAT(result.message, testing::StartsWith("lora.rank: is not that of the adapter to start from"));
  spec.init_adapter_path = root_ + "/nowhere";
  result = Go(spec, &refused);
  EXPECT_EQ(result.reason, "INVALID_ADAPTER");
  // A checkpoint goes on only from the adapter that it began with.
  job::TrainSpec more = Spec("dpo", "more_dpo");
  result = Go(more, &refused);
  EXPECT_EQ(result.reason, "CHECKPOINT_MISMATCH");
  EXPECT_THAT(result.message, HasSubstr("init_adapter"));
}

class SampleRecorder : public Recorder {
 public:
  void OnSample(const job::SampleOutput& sample) override { samples.push_back(sample); }
  std::vector<job::SampleOutput> samples;
};

TEST_F(PreferenceRun, EvaluationsAnswerHeldOutPrompts) {
  for (const char* method : {"dpo", "kto"}) {
    SCOPED_TRACE(method);
    job::TrainSpec spec = Spec(method, std::string("s_") + method);
    spec.eval_dataset_path = root_ + "/held.jsonl";
    spec.evaluation.sample_prompts = 2;
    spec.evaluation.before_training = true;
    spec.schedule.max_steps = 2;
    spec.schedule.max_seq_length = 40;
    SampleRecorder recorder, plain;
    const job::RunResult result = Go(spec, &recorder);
    ASSERT_EQ(result.outcome, Outcome::kDone) << result.message;
    ASSERT_EQ(recorder.samples.size(), 2u * 2);
    EXPECT_EQ(recorder.samples[0].step, 0);
    EXPECT_EQ(recorder.samples[2].step, 2);
    EXPECT_EQ(recorder.samples[0].prompt_id, "line-1");
    EXPECT_EQ(recorder.samples[1].prompt_id, "line-2");
    EXPECT_EQ(recorder.samples[0].prompt, "question 49");
    EXPECT_TRUE(std::isnan(recorder.samples[0].reward));
    EXPECT_FALSE(recorder.samples[0].completion.empty());
    spec.evaluation.sample_prompts = 0;
    spec.state_dir += "_plain";
    ASSERT_EQ(Go(spec, &plain).outcome, Outcome::kDone);
    EXPECT_EQ(AdapterBytes(std::string("s_") + method), AdapterBytes(std::string("s_") + method + "_plain"))
        << "looking at a run changes it";
    EXPECT_GT(recorder.steps[0]["memory_planned_bytes"], plain.steps[0]["memory_planned_bytes"]);
  }
}

TEST_F(PreferenceRun, StopsEarlyWithTheAdapterOfTheBestEvaluation) {
  for (const auto& [method, metric, larger] : {std::tuple{"dpo", "eval_loss", false},
                                               {"dpo", "eval_rewards/margins", true},
                                               {"kto", "eval_loss", false},
                                               {"kto", "eval_rewards/margins", true}}) {
    SCOPED_TRACE(std::string(method) + " by " + metric);
    job::TrainSpec spec = Spec(method, std::string(method) + (larger ? "_margins" : "_loss"));
    spec.eval_dataset_path = root_ + "/held.jsonl";
    spec.optimizer.learning_rate = 0.3;  // it does not rise all the way
    ExpectStopsEarlyWithTheBestAdapter(spec, metric, larger);
  }
}

TEST_F(PreferenceRun, FlopsCountThePassesOfTheReference) {
  const auto flops = [&](job::TrainSpec spec, const char* state) {
    spec.state_dir = root_ + "/" + state;
    spec.schedule.max_steps = 1;
    Recorder recorder;
    EXPECT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
    return recorder.steps.at(0).at("flops");
  };
  job::TrainSpec dpo = Spec("dpo", ""), kto = Spec("kto", "");
  const double beside = flops(dpo, "beside");
  dpo.dpo.precompute_reference = true;
  const double forward = beside / flops(dpo, "kept") - 1;  // of a pass, in units of a step's
  EXPECT_GT(forward, 0.1);
  EXPECT_LT(forward, 0.5);
  const double with_kl = flops(kto, "kto");
  kto.kto.loss_type = "apo_zero_unpaired";
  EXPECT_NEAR(with_kl / flops(kto, "apo"), (1 + 3 * forward) / (1 + forward), 0.02);
}

TEST_F(PreferenceRun, BadOptionsAndRowsAreRefusedByName) {
  job::TrainSpec spec = Spec("dpo", "s");
  spec.dpo.loss_types = {"exo_pair"};
  Recorder recorder;
  job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_THAT(result.message, HasSubstr("dpo.label_smoothing: must be above 0 with exo_pair"));
  spec = Spec("dpo", "s");
  spec.dataset_path = root_ + "/kto.jsonl";
  result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadData);
  EXPECT_THAT(result.message, HasSubstr("the row fits method kto"));
}

}  // namespace
}  // namespace finetuned::train
