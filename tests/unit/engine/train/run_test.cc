// Whole runs through RunTraining, on the tiny golden model and rows written here.
#include "engine/train/run.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/train/base_model_cache.h"
#include "engine/train/files.h"
#include "engine/train/sample.h"
#include "tests/unit/engine/train/run_testing.h"

namespace finetuned::train {
namespace {

using job::Outcome;
using parity::Recorder;
using testing::HasSubstr;

class RunTest : public RunFixture {
 protected:
  RunTest() {
    WriteRows("rows.jsonl", 11, Row);
    WriteRows("eval.jsonl", 3, Row);
  }

  static std::string Row(int i) {
    return absl::StrCat("{\"prompt\": \"question ", i, " is\", \"completion\": \" answer ",
                        std::string(3 + i % 5, static_cast<char>('a' + i % 26)), "\"}");
  }

  job::TrainSpec Spec(const std::string& state) const {
    job::TrainSpec spec = TinySpec(state);
    spec.lora.rank = 64;  // large enough for 8-bit states
    spec.lora.alpha = 64;
    spec.lora.dropout = 0.1;
    spec.optimizer.learning_rate = 2e-3;
    spec.optimizer.warmup_steps = 2;
    spec.schedule.epochs = 3;
    spec.schedule.micro_batch_size = 2;
    spec.schedule.gradient_accumulation_steps = 2;
    spec.schedule.max_seq_length = 128;
    return spec;
  }

  // Plain text over the base of a run, on the CPU.
  static SampleSpec SampleOf(const job::TrainSpec& run, const std::string& base_quantization) {
    SampleSpec sample;
    sample.base_model_path = run.base_model_path;
    sample.base_quantization = base_quantization;
    sample.device = "cpu";
    sample.raw = true;
    return sample;
  }

  job::RunResult Go(const job::TrainSpec& spec, Recorder* recorder,
                    BaseModelCache* cache = nullptr) {
    return RunTraining(spec, *recorder, control_, cache);
  }

  // Leaves after step 2, is killed (nothing saved) after step 5, then finishes: as if nothing had happened.
  void ExpectPartsEqualWhole(const std::function<void(job::TrainSpec*)>& change) {
    job::TrainSpec undisturbed = Spec("whole"), spec = Spec("parts");
    change(&undisturbed);
    change(&spec);
    Recorder whole;
    ASSERT_EQ(Go(undisturbed, &whole).outcome, Outcome::kDone);
    Recorder first, second, third;
    first.after_step = [&](int64_t step) { control_.leave = step == 2; };
    job::RunResult result = Go(spec, &first);
    EXPECT_EQ(result.outcome, Outcome::kCheckpointed);
    EXPECT_EQ(result.last_step, 2);
    control_.leave = false;
    spec.checkpoints.every_steps = 2;
    second.after_step = [&](int64_t step) { control_.cancel = step == 5; };
    EXPECT_EQ(Go(spec, &second).outcome, Outcome::kCancelled);
    EXPECT_EQ(second.first_step, 2);
    control_.cancel = false;
    EXPECT_EQ(Go(spec, &third).outcome, Outcome::kDone);
    EXPECT_EQ(third.first_step, 4);
    EXPECT_EQ(AdapterBytes("whole"), AdapterBytes("parts"));
    for (size_t i = 0; i < third.steps.size(); ++i) {
      EXPECT_EQ(third.steps[i]["loss"], whole.steps[i + 4]["loss"]);
      EXPECT_EQ(third.steps[i]["num_tokens"], whole.steps[i + 4]["num_tokens"]);
    }
  }
};

TEST_F(RunTest, TrainsEvaluatesAndExportsAnAdapter) {
  job::TrainSpec spec = Spec("s");
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.evaluation.before_training = true;
  spec.schedule.epochs = 20;
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  ASSERT_EQ(result.outcome, Outcome::kDone) << result.reason << ": " << result.message;
  EXPECT_EQ(recorder.total_steps, 60);  // 11 rows, 6 micro-batches, 3 steps an epoch
  EXPECT_EQ(recorder.steps.size(), 60u);
  ASSERT_EQ(recorder.evals.size(), 2u);
  EXPECT_LT(recorder.evals[1]["eval_loss"], 0.8 * recorder.evals[0]["eval_loss"]);
  EXPECT_LT(recorder.steps.back()["loss"], 0.8 * recorder.steps.front()["loss"]);
  EXPECT_EQ(result.adapter_dir, spec.state_dir + "/adapter");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors", "README.md"}) {
    EXPECT_TRUE(std::filesystem::exists(result.adapter_dir + "/" + file)) << file;
  }
  EXPECT_THAT(recorder.phases,
              testing::ElementsAre("loading", "tokenizing", "training", "exporting"));
  for (const char* key :
       {"loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens",
        "trained_tokens", "tokens_per_second", "step_time", "memory_allocated_bytes",
        "memory_peak_bytes", "memory_device_used_bytes", "flops"}) {
    EXPECT_TRUE(recorder.steps[0].contains(key)) << key;
  }
}

TEST_F(RunTest, CheckpointsByTime) {
  job::TrainSpec spec = Spec("s");
  spec.checkpoints.every_seconds = 1e-9;  // each step is later
  Recorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  EXPECT_EQ(recorder.checkpoints.size(), recorder.steps.size());
  spec = Spec("rarely");
  spec.checkpoints.every_seconds = 3600;
  Recorder rare;
  ASSERT_EQ(Go(spec, &rare).outcome, Outcome::kDone);
  EXPECT_EQ(rare.checkpoints.size(), 1u) << "the one at the end";
}

TEST_F(RunTest, LossThatIsNotFiniteNamesItsRowsAndKeepsThem) {
  job::TrainSpec spec = Spec("s");
  spec.optimizer.learning_rate = 1e30;
  spec.optimizer.warmup_steps = 0;
  spec.optimizer.max_grad_norm = 0;
  spec.schedule.epochs = 10;
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  ASSERT_EQ(result.outcome, Outcome::kInternal) << result.message;
  EXPECT_EQ(result.reason, "NON_FINITE_LOSS");
  EXPECT_THAT(result.message, HasSubstr("5 steps in a row"));
  EXPECT_THAT(result.message, testing::ContainsRegex("its rows: line [0-9]+, [0-9]+"));
  EXPECT_THAT(result.message, HasSubstr("non_finite_batch.json"));
  const std::string saved = parity::FileBytes(spec.state_dir + "/non_finite_batch.json");
  EXPECT_THAT(saved, HasSubstr("\"input_ids\":["));
  EXPECT_THAT(saved, testing::ContainsRegex("\"loss\":\"-?(nan|inf)\""));
}

TEST_F(RunTest, ResumedRunEqualsUninterruptedByteForByte) {
  ExpectPartsEqualWhole([](job::TrainSpec*) {});
}

TEST_F(RunTest, ResumedDoraRunOverInt8EqualsUninterruptedByteForByte) {
  ExpectPartsEqualWhole([](job::TrainSpec* spec) {
    spec->base_quantization = "int8";
    spec->skip_modules = {"o_proj"};
    spec->lora.dropout = 0;
    spec->lora.use_dora = true;
    spec->lora.rank_pattern = {{"down_proj", 8}};
    spec->lora.alpha_pattern = {{"up_proj", 16}};
    spec->lora.layers_to_transform = {1};
  });
}

TEST_F(RunTest, ResumedRunWithWholeModulesEqualsUninterruptedByteForByte) {
  ExpectPartsEqualWhole([](job::TrainSpec* spec) { spec->lora.modules_to_save = {"embed_tokens", "lm_head"}; });
}

TEST_F(RunTest, ResumedRunWithBiasesEqualsUninterruptedByteForByte) {
  ExpectPartsEqualWhole([](job::TrainSpec* spec) {
    spec->base_model_path = parity::GoldenPath("kinds/biased");
    spec->schedule.max_seq_length = 64;
    spec->lora.target_modules = {"q_proj", "up_proj"};
    spec->lora.bias = "all";
  });
}

// Their rows are trained, saved with the tokenizer, and used by samples and by a run that goes on from the adapter.
TEST_F(RunTest, NewTokensAreTrainedAndSaved) {
  job::TrainSpec spec = Spec("tokens");
  spec.device = "cpu";
  spec.lora.new_tokens = {"question", "answer"};
  spec.lora.modules_to_save = {"embed_tokens", "lm_head"};
  spec.schedule.max_steps = 4;
  Recorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  const std::string adapter = spec.state_dir + "/adapter";
  EXPECT_TRUE(std::filesystem::exists(adapter + "/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(adapter + "/tokenizer_config.json"));
  const auto weights = parity::ReadTensors(adapter + "/adapter_model.safetensors");
  const at::Tensor rows = weights.at("base_model.model.model.embed_tokens.weight");
  ASSERT_EQ(rows.size(0), 266);
  EXPECT_GT((rows[264] - rows[265]).abs().max().item<float>(), 0) << "rows that began alike did not train";
  BaseModelCache cache;
  SampleSpec sample = SampleOf(spec, "none");
  sample.prompt = "question 1";
  sample.max_tokens = 3;
  sample.adapter_dir = adapter;
  const std::atomic<bool> cancel{false};
  int64_t prompt_tokens = 0;
  const absl::Status status = RunSample(sample, &cache, cancel, [&](SamplePart part) { prompt_tokens = part.prompt_tokens; });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(prompt_tokens, 3);  // "question", a space, a digit
  job::TrainSpec next = Spec("next");
  next.init_adapter_path = adapter;
  next.lora.modules_to_save = {"embed_tokens", "lm_head"};
  next.schedule.max_steps = 2;
  ASSERT_EQ(Go(next, &recorder).outcome, Outcome::kDone);
  EXPECT_TRUE(std::filesystem::exists(next.state_dir + "/adapter/tokenizer.json"));
}

TEST_F(RunTest, ResumedRunWithNewTokensEqualsUninterruptedByteForByte) {
  ExpectPartsEqualWhole([](job::TrainSpec* spec) {
    spec->lora.new_tokens = {"question"};
    spec->lora.modules_to_save = {"embed_tokens", "lm_head"};
  });
}

// What a warm worker does: the base of a run serves samples from any adapter that was trained on it.
TEST_F(RunTest, AdaptersShareOneLoadedBase) {
  BaseModelCache cache;
  job::TrainSpec first = Spec("first"), second = Spec("second");
  for (job::TrainSpec* spec : {&first, &second}) {
    spec->base_quantization = "int8";
    spec->device = "cpu";  // as the samples
    spec->schedule.max_steps = 2;
  }
  second.lora.dropout = 0;
  second.lora.use_dora = true;
  second.lora.modules_to_save = {"lm_head"};
  Recorder recorder;
  ASSERT_EQ(Go(first, &recorder, &cache).outcome, Outcome::kDone);
  ASSERT_EQ(Go(second, &recorder, &cache).outcome, Outcome::kDone);
  const model::BaseModel* const base = cache.impl()->model.get();
  ASSERT_NE(base, nullptr);
  SampleSpec sample = SampleOf(first, "int8");
  sample.prompt = "question";
  sample.max_tokens = 4;
  const std::atomic<bool> cancel{false};
  std::vector<std::vector<float>> logprobs;
  for (const std::string& adapter : {std::string(), first.state_dir + "/adapter", second.state_dir + "/adapter"}) {
    sample.adapter_dir = adapter;
    std::vector<float>& of_adapter = logprobs.emplace_back();
    const absl::Status status = RunSample(sample, &cache, cancel, [&](SamplePart part) {
      of_adapter.insert(of_adapter.end(), part.logprobs.begin(), part.logprobs.end());
    });
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(cache.impl()->model.get(), base) << adapter;
  }
  EXPECT_NE(logprobs[0], logprobs[1]);
  EXPECT_NE(logprobs[1], logprobs[2]);
}

TEST_F(RunTest, LayersThatTheModelLacksAreNamed) {
  job::TrainSpec spec = Spec("s");
  spec.lora.layers_to_transform = {1, 2};
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_THAT(result.message, HasSubstr("lora.layers_to_transform: names layer 2, the model has layers 0 to 1"));
}

TEST_F(RunTest, KeepBestExportsTheAdapterOfTheBestEvaluation) {
  job::TrainSpec spec = Spec("s");
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.evaluation.every_steps = 1;
  spec.checkpoints.keep_best = true;
  spec.checkpoints.keep_last = 1;
  spec.optimizer.scheduler = "constant";
  spec.optimizer.learning_rate = 30;  // much too large: the loss rises
  spec.optimizer.warmup_steps = 0;
  Recorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  size_t best = 0;
  for (size_t i = 0; i < recorder.evals.size(); ++i) {
    if (recorder.evals[i]["eval_loss"] < recorder.evals[best]["eval_loss"]) best = i;
  }
  ASSERT_LT(best + 1, recorder.evals.size());
  char name[32];
  std::snprintf(name, sizeof(name), "step-%08d", static_cast<int>(best + 1));
  EXPECT_EQ(AdapterBytes("s"),
            parity::FileBytes(root_ + "/s/checkpoints/" + name + "/adapter_model.safetensors"));
  const auto kept = std::filesystem::directory_iterator(root_ + "/s/checkpoints");
  EXPECT_EQ(std::distance(begin(kept), end(kept)), 2);  // the best and the last
}

TEST_F(RunTest, StopsEarlyWhenEvaluationsNoLongerImprove) {
  job::TrainSpec spec = Spec("s");
  spec.eval_dataset_path = root_ + "/eval.jsonl";
  spec.evaluation.every_steps = 1;
  spec.evaluation.early_stopping_patience = 2;
  spec.optimizer.learning_rate = 0;  // nothing improves
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kDone);
  EXPECT_EQ(result.last_step, 3);  // the first evaluation, and two that are not better
  EXPECT_THAT(recorder.logs, testing::Contains(HasSubstr("stopped early after step 3")));
  // Running it again changes nothing: the count is part of the checkpoint.
  Recorder again;
  EXPECT_EQ(Go(spec, &again).last_step, 3);
}

TEST_F(RunTest, DamagedCheckpointIsPassedOverWithAWarning) {
  job::TrainSpec spec = Spec("s");
  spec.checkpoints.every_steps = 2;
  spec.checkpoints.keep_last = 3;
  Recorder first, second;
  first.after_step = [&](int64_t step) { control_.cancel = step == 4; };
  Go(spec, &first);
  control_.cancel = false;
  ASSERT_EQ(first.checkpoints.size(), 2u);
  std::fstream file(first.checkpoints[1] + "/optimizer.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7f');
  file.close();
  EXPECT_EQ(Go(spec, &second).outcome, Outcome::kDone);
  EXPECT_EQ(second.first_step, 2);
  ASSERT_EQ(second.warnings.size(), 1u);
  EXPECT_THAT(second.warnings[0], HasSubstr("CHECKPOINT_DAMAGED"));
  EXPECT_THAT(second.warnings[0], HasSubstr("optimizer.safetensors"));
}

TEST_F(RunTest, CheckpointOfOtherSettingsIsRefused) {
  job::TrainSpec spec = Spec("s");
  Recorder first, second;
  ASSERT_EQ(Go(spec, &first).outcome, Outcome::kDone);
  spec.optimizer.learning_rate = 1e-5;
  const job::RunResult result = Go(spec, &second);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_EQ(result.reason, "CHECKPOINT_MISMATCH");
  EXPECT_THAT(result.message, HasSubstr("optimizer.learning_rate 0.002 -> 1e-05"));
  // Another dataset under the same name.
  WriteRows("rows.jsonl", 12, Row);
  EXPECT_THAT(Go(Spec("s"), &second).message, HasSubstr("differs in: dataset"));
}

TEST_F(RunTest, OnlyTheLastCheckpointsAreKept) {
  job::TrainSpec spec = Spec("s");
  spec.checkpoints.every_steps = 1;
  spec.checkpoints.keep_last = 2;
  Recorder recorder;
  ASSERT_EQ(Go(spec, &recorder).outcome, Outcome::kDone);
  std::vector<std::string> left;
  for (const auto& e : std::filesystem::directory_iterator(spec.state_dir + "/checkpoints")) {
    left.push_back(e.path().filename().string());
  }
  EXPECT_THAT(left, testing::UnorderedElementsAre("step-00000008", "step-00000009"));
}

TEST_F(RunTest, FinishStopsEarlyWithAnAdapter) {
  Recorder recorder;
  recorder.after_step = [&](int64_t step) { control_.finish = step == 3; };
  const job::RunResult result = Go(Spec("s"), &recorder);
  EXPECT_EQ(result.outcome, Outcome::kDone);
  EXPECT_EQ(result.last_step, 3);
  EXPECT_FALSE(AdapterBytes("s").empty());
}

TEST_F(RunTest, WarmBaseIsReusedAndChangesNothing) {
  BaseModelCache cache;
  Recorder first, second;
  ASSERT_EQ(Go(Spec("a"), &first, &cache).outcome, Outcome::kDone);
  ASSERT_EQ(Go(Spec("b"), &second, &cache).outcome, Outcome::kDone);
  EXPECT_THAT(second.logs, testing::Contains(HasSubstr("already loaded")));
  EXPECT_EQ(AdapterBytes("a"), AdapterBytes("b"));
}

TEST_F(RunTest, RecomputingActivationsAndDeterministicModeGiveTheSameAdapter) {
  Recorder a, b;
  ASSERT_EQ(Go(Spec("a"), &a).outcome, Outcome::kDone);
  job::TrainSpec spec = Spec("b");
  spec.activation_checkpointing = true;
  spec.deterministic = true;
  const job::RunResult result = Go(spec, &b);
  ASSERT_EQ(result.outcome, Outcome::kDone) << result.message;
  EXPECT_EQ(AdapterBytes("a"), AdapterBytes("b"));
}

TEST_F(RunTest, NonFiniteGradientsEndTheRunAfterFiveSkippedSteps) {
  job::TrainSpec spec = Spec("s");
  spec.optimizer.learning_rate = 1e30;
  spec.optimizer.max_grad_norm = 0;
  spec.optimizer.scheduler = "constant";
  spec.schedule.max_steps = 30;
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kInternal);
  EXPECT_EQ(result.reason, "NON_FINITE_LOSS");
  EXPECT_EQ(recorder.warnings.size(), 5u);
}

TEST_F(RunTest, WrongSettingsNameTheirField) {
  Recorder recorder;
  job::TrainSpec spec = Spec("s");
  spec.lora.target_modules = {"q_proj", "qkv_proj"};
  job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_EQ(result.reason, "INVALID_SPEC");
  EXPECT_THAT(result.message, HasSubstr("lora.target_modules: \"qkv_proj\""));
  spec = Spec("s");
  spec.schedule.max_seq_length = 1024;
  EXPECT_EQ(Go(spec, &recorder).message,
            "schedule.max_seq_length: is 1024, the model's limit is 512");
  spec = Spec("s");
  spec.compute_dtype = "bf16";
  spec.device = "cpu";
  EXPECT_THAT(Go(spec, &recorder).message, HasSubstr("compute.dtype"));
}

TEST_F(RunTest, WrongDataNameTheLine) {
  std::ofstream(root_ + "/rows.jsonl", std::ios::app) << "{\"prompt\": \"a\"}\n";
  Recorder recorder;
  const job::RunResult result = Go(Spec("s"), &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadData);
  EXPECT_EQ(result.reason, "INVALID_DATASET");
  EXPECT_THAT(result.message, HasSubstr("12"));
}

TEST_F(RunTest, WeightThatIsNotFiniteIsNamed) {
  const std::string copy = root_ + "/model";
  std::filesystem::copy(parity::GoldenPath("untied"), copy);
  const std::string weights = copy + "/model.safetensors";
  std::filesystem::permissions(weights, std::filesystem::perms::owner_all);
  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-2, std::ios::end);
  file.write("\xc0\x7f", 2);  // bfloat16 NaN as the last element
  file.close();
  job::TrainSpec spec = Spec("s");
  spec.base_model_path = copy;
  Recorder recorder;
  const job::RunResult result = Go(spec, &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_EQ(result.reason, "INVALID_MODEL");
  EXPECT_THAT(result.message, HasSubstr("holds nan at element"));
  EXPECT_THAT(result.message, HasSubstr(copy));
}

TEST_F(RunTest, StateDirectoryInUseIsRefused) {
  auto lock = DirectoryLock::Take(root_ + "/s");
  ASSERT_TRUE(lock.ok());
  Recorder recorder;
  const job::RunResult result = Go(Spec("s"), &recorder);
  EXPECT_EQ(result.outcome, Outcome::kBadConfig);
  EXPECT_EQ(result.reason, "STATE_DIR_BUSY");
}

}  // namespace
}  // namespace finetuned::train
