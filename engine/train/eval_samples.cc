#include "engine/train/eval_samples.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/plan/rollout.h"

namespace finetuned::train {
namespace {

generate::GeneratorOptions OptionsOf(const MethodInputs& in) {
  const plan::Rollout rollout =
      plan::EvalSamples(in.spec->evaluation.sample_prompts, in.spec->schedule.max_seq_length);
  return GeneratorOptionsFor(in, rollout, rollout.max_tokens);
}

int64_t PromptTokens(const data::TokenizedRow& row) {
  return std::find(row.trained.begin(), row.trained.end(), 1) - row.trained.begin();
}

// Rows with a prompt that leaves room for an answer; of pairs the chosen ones.
std::vector<const data::TokenizedRow*> Usable(const MethodInputs& in) {
  const int64_t longest = plan::EvalSamples(1, in.spec->schedule.max_seq_length).max_tokens;
  const int64_t room = std::min(plan::kSampleAnswerTokens, longest / 2);
  std::vector<const data::TokenizedRow*> rows;
  const size_t unit = in.spec->method == "dpo" ? 2 : 1;
  for (size_t i = 0; i < in.eval->rows.size(); i += unit) {
    const int64_t n = PromptTokens(in.eval->rows[i]);
    if (n > 0 && n <= longest - room) rows.push_back(&in.eval->rows[i]);
  }
  return rows;
}

}  // namespace

EvalSampler::EvalSampler(const MethodInputs& inputs)
    : in_(inputs), generator_(*in_.base, in_.adapter, OptionsOf(in_)) {
  const std::vector<const data::TokenizedRow*> rows = Usable(in_);
  const int64_t total = static_cast<int64_t>(rows.size());
  const int64_t wanted = std::min(total, in_.spec->evaluation.sample_prompts);
  if (wanted == 0) {
    in_.observer->OnWarning("NO_SAMPLE_PROMPTS",
                            "evaluation.sample_prompts: no held-out row begins with a prompt that leaves room for an answer");
  }
  for (int64_t k = 0; k < wanted; ++k) {
    const data::TokenizedRow& row = *rows[static_cast<size_t>(k * total / wanted)];
    generate::Request request;
    request.prompt_ids.assign(row.input_ids.begin(), row.input_ids.begin() + PromptTokens(row));
    request.sampling.temperature = 0;
    request.sampling.max_new_tokens = plan::kSampleAnswerTokens;
    request.sampling.eos_ids = in_.base->config.eos_token_ids;
    if (in_.rollouts.tokenizer->eos()) request.sampling.eos_ids.push_back(*in_.rollouts.tokenizer->eos());
    prompts_.push_back({absl::StrCat("line-", row.line),
                        in_.rollouts.tokenizer->Decode(request.prompt_ids, /*skip_special=*/false)});
    requests_.push_back(std::move(request));
  }
}

void EvalSampler::Sample(int64_t step) {
  if (requests_.empty()) return;
  in_.doing(absl::StrCat("sampling after step ", step));
  const auto answers = generator_.Generate(requests_);
  if (!answers.ok()) {
    in_.observer->OnWarning("SAMPLING_FAILED", std::string(answers.status().message()));
    return;
  }
  for (size_t i = 0; i < requests_.size(); ++i) {
    const generate::Completion& answer = (*answers)[i][0];
    job::SampleOutput sample;
    sample.step = step;
    sample.prompt = prompts_[i].text;
    sample.prompt_id = prompts_[i].id;
    sample.completion = in_.rollouts.tokenizer->Decode(answer.tokens, /*skip_special=*/true);
    sample.reward = std::numeric_limits<double>::quiet_NaN();
    sample.truncated = answer.finish == generate::FinishReason::kLength;
    in_.observer->OnSample(sample);
  }
}

}  // namespace finetuned::train
