#include "tests/bench/engine/one_step.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "engine/train/device.h"
#include "engine/train/grpo_method.h"
#include "engine/train/trainer.h"

namespace finetuned::bench {
namespace {

// Keeps what the first step measured and ends the run after it.
class OneStep : public job::RunObserver {
 public:
  OneStep(job::RunControl* control, StepReport* report) : control_(control), report_(report) {}
  void OnPhase(const std::string&) override {}
  void OnPlan(int64_t, int64_t, const std::map<std::string, double>&) override {}
  void OnStep(int64_t, double, const std::map<std::string, double>& values) override {
    report_->values = values;
    control_->cancel = true;
  }
  void OnEval(int64_t, const std::map<std::string, double>&) override {}
  void OnCheckpoint(int64_t, const std::string&, int64_t) override {}
  void OnWarning(const std::string& code, const std::string& text) override { report_->warnings[code] = text; }
  void OnLog(const std::string&) override {}

 private:
  job::RunControl* const control_;
  StepReport* const report_;
};

// Completions of random tokens have no text.
class NoText : public text::Tokenizer {
 public:
  explicit NoText(int64_t vocabulary) : vocabulary_(static_cast<int32_t>(vocabulary)) {}
  absl::StatusOr<std::vector<text::Token>> Encode(std::string_view, const text::EncodeOptions&) const override {
    return std::vector<text::Token>();
  }
  std::string Decode(std::span<const int32_t>, bool) const override { return ""; }
  int32_t vocabulary_size() const override { return vocabulary_; }
  std::string IdToToken(int32_t) const override { return ""; }
  std::optional<int32_t> TokenToId(std::string_view) const override { return std::nullopt; }
  std::optional<int32_t> bos() const override { return std::nullopt; }
  std::optional<int32_t> eos() const override { return std::nullopt; }
  std::optional<int32_t> pad() const override { return std::nullopt; }
  std::optional<int32_t> unk() const override { return std::nullopt; }

 private:
  const int32_t vocabulary_;
};

class RandomTokens {
 public:
  explicit RandomTokens(int64_t vocabulary) : token_(0, static_cast<int32_t>(vocabulary - 1)) {}
  std::vector<int32_t> operator()(int64_t count) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < count; ++t) ids.push_back(token_(random_));
    return ids;
  }

 private:
  std::mt19937 random_{7};
  std::uniform_int_distribution<int32_t> token_;
};

// Every token of sft trains; answers of the others are the second half.
data::TokenizedDataset RandomRows(const job::TrainSpec& spec, int64_t vocabulary) {
  const int64_t length = spec.schedule.max_seq_length;
  const int64_t count = spec.schedule.micro_batch_size * spec.schedule.gradient_accumulation_steps *
                        (spec.method == "dpo" ? 2 : 1);
  RandomTokens tokens(vocabulary);
  data::TokenizedDataset set;
  for (int64_t i = 0; i < count; ++i) {
    data::TokenizedRow& row = set.rows.emplace_back();
    row.input_ids = tokens(length);
    row.trained.assign(row.input_ids.size(), 1);
    if (spec.method != "sft") std::fill_n(row.trained.begin(), length / 2, 0);
    row.desirable = i % 2 == 0;
  }
  set.stats.rows = count;
  set.stats.tokens = count * length;
  return set;
}

data::PromptSet RandomPrompts(const job::TrainSpec& spec, int64_t vocabulary) {
  RandomTokens tokens(vocabulary);
  data::PromptSet set;
  const int64_t count = train::CompletionsPerRollout(spec) / spec.grpo.group_size;
  for (int64_t i = 0; i < count; ++i) {
    data::Prompt& prompt = set.prompts.emplace_back();
    prompt.ids = tokens(spec.schedule.max_seq_length - spec.grpo.max_completion_tokens);
    prompt.line = i + 1;
  }
  return set;
}

// As run.cc: the prompts stand in for the rows.
data::TokenizedDataset RowsOf(const data::PromptSet& prompts) {
  data::TokenizedDataset set;
  for (const data::Prompt& prompt : prompts.prompts) {
    set.rows.push_back({prompt.ids, std::vector<uint8_t>(prompt.ids.size(), 0), prompt.line});
    set.stats.tokens += static_cast<int64_t>(prompt.ids.size());
  }
  set.stats.rows = static_cast<int64_t>(set.rows.size());
  return set;
}

}  // namespace

StepReport RunOneStep(const job::TrainSpec& spec, const model::BaseModel& base) {
  const int64_t vocabulary = base.config.vocab_size;
  const bool rollouts = spec.method == "grpo";
  data::PromptSet prompts;
  if (rollouts) prompts = RandomPrompts(spec, vocabulary);
  const data::TokenizedDataset rows = rollouts ? RowsOf(prompts) : RandomRows(spec, vocabulary);
  const NoText tokenizer(vocabulary);
  job::RunControl control;
  StepReport report;
  OneStep observer(&control, &report);
  train::TrainerInputs in;
  in.spec = &spec;
  in.base = &base;
  in.train = &rows;
  if (rollouts) in.rollouts = {&tokenizer, &prompts, spec.evaluation.before_training ? &prompts : nullptr, nullptr};
  if (!rollouts && spec.evaluation.before_training) in.eval = &rows;
  train::DeviceMemory memory;  // the probe runs on the CPU, too
  in.memory = &memory;
  in.observer = &observer;
  in.control = &control;
  train::ReleaseCachedMemory(base.options.device);
  train::ResetPeak(base.options.device);
  train::Trainer trainer(std::move(in));
  const auto result = trainer.Run(std::nullopt);
  if (!result.ok()) {
    report.error = std::string(result.status().message());
  } else if (report.values.empty()) {
    report.error = result->message;
  }
  return report;
}

}  // namespace finetuned::bench
