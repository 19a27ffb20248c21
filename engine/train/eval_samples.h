#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/generate/generator.h"
#include "engine/train/method.h"

namespace finetuned::train {

// Answers some held-out prompts with the most probable tokens at each evaluation and reports them, so that a run can be
// read while it trains. For methods whose rows hold prompt and answer; GRPO's evaluation generates anyway.
class EvalSampler {
 public:
  // Takes evaluation.sample_prompts rows, spread over the evaluation set; of each, what comes before the first token
  // that trains. Rows without such tokens, or with more than leave room for an answer, are passed over; a warning tells
  // when none is left. Takes the cache's memory, as the plan has it (plan::EvalSamples).
  explicit EvalSampler(const MethodInputs& inputs);

  // Reports an answer per prompt, or a warning. Waits for the device.
  void Sample(int64_t step);

 private:
  struct Prompt {
    std::string id, text;
  };

  const MethodInputs in_;
  std::vector<Prompt> prompts_;
  std::vector<generate::Request> requests_;
  generate::Generator generator_;
};

}  // namespace finetuned::train
