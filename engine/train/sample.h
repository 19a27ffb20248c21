#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/train/run.h"

// Text from a base model or an adapter, outside of any training run. Free of LibTorch.
namespace finetuned::train {

struct SampleSpec {
  std::string base_model_path;
  std::string adapter_dir;               // PEFT folder; empty: the base alone
  std::string base_quantization = "nf4";  // as in TrainSpec, like the next ones
  bool double_quant = true;
  double int8_threshold = 0;
  std::vector<std::string> skip_modules;
  std::string lm_head_quantization = "none";
  std::string embed_tokens;
  std::string matmul_precision = "bf16";
  std::string compute_dtype = "auto";
  std::string device = "auto";
  int cpu_threads = 0;

  std::string prompt;
  std::string system_prompt;             // empty: the template's own
  bool raw = false;                      // the prompt as it is, without the chat template
  std::string chat_template;             // empty: the model's

  int64_t num_samples = 1;
  int64_t max_tokens = 256;
  double temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1;
  int64_t top_k = 0;
  uint64_t seed = 42;
  std::vector<std::string> stop;         // end an answer; not part of its text
};

// What is new of one answer.
struct SamplePart {
  int64_t sample = 0;
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string finish_reason;      // "stop" or "length" in the last part of a sample, else empty
  int64_t prompt_tokens = 0;      // last part
  double tokens_per_second = 0;   // last part: of all samples together
};

// Generates on the calling thread; parts come as they are made. The base stays in `cache`, where the next run or sample
// finds it. Never throws. INVALID_ARGUMENT: model, adapter, prompt or settings (names which); RESOURCE_EXHAUSTED:
// device memory; CANCELLED.
absl::Status RunSample(const SampleSpec& spec, BaseModelCache* cache, const std::atomic<bool>& cancel,
                       const std::function<void(SamplePart)>& emit);

}  // namespace finetuned::train
