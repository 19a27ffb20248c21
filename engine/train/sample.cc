#include "engine/train/sample.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>

#include "absl/strings/str_cat.h"
#include "engine/format/extended_model.h"
#include "engine/format/model_source.h"
#include "engine/generate/generator.h"
#include "engine/generate/prompt.h"
#include "engine/generate/text_stream.h"
#include "engine/lora/peft_files.h"
#include "engine/train/base_model_cache.h"
#include "engine/train/device.h"

namespace finetuned::train {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<ComputeTarget> TargetOf(const SampleSpec& spec) {
  job::TrainSpec run;
  run.device = spec.device;
  run.compute_dtype = spec.compute_dtype;
  run.cpu_threads = spec.cpu_threads;
  ConfigureLibrary(run);
  return ChooseTarget(run);
}

// Turns events of the generator into parts, and watches for stop strings.
class Writer {
 public:
  Writer(const SampleSpec& spec, const text::Tokenizer& tokenizer, int64_t prompt_tokens,
         const std::function<void(SamplePart)>& emit)
      : prompt_tokens_(prompt_tokens), emit_(emit), begin_(Clock::now()) {
    for (int64_t s = 0; s < spec.num_samples; ++s) streams_.emplace_back(&tokenizer, spec.stop);
  }

  // False: a stop string ends the sample.
  bool Take(const generate::TokenEvent& e) {
    ++tokens_;
    generate::TextStream& stream = streams_[e.sample];
    SamplePart part;
    part.sample = e.sample;
    part.text = stream.Add(e.token);
    part.tokens = {e.token};
    part.logprobs = {e.logprob};
    if (stream.stopped() || e.last) {
      part.text += stream.Finish();
      const bool stop = stream.stopped() || e.finish == generate::FinishReason::kStop;
      part.finish_reason = stop ? "stop" : "length";
      part.prompt_tokens = prompt_tokens_;
      const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
      part.tokens_per_second = seconds > 0 ? static_cast<double>(tokens_) / seconds : 0;
    }
    emit_(std::move(part));
    return !stream.stopped();
  }

 private:
  const int64_t prompt_tokens_;
  const std::function<void(SamplePart)>& emit_;
  const Clock::time_point begin_;
  std::vector<generate::TextStream> streams_;
  int64_t tokens_ = 0;
};

generate::Request MakeRequest(const SampleSpec& spec, std::vector<int32_t> prompt, const format::ModelConfig& config,
                              const text::Tokenizer& tokenizer) {
  generate::Request request;
  request.prompt_ids = std::move(prompt);
  request.num_samples = spec.num_samples;
  generate::SamplingOptions& s = request.sampling;
  s.max_new_tokens = spec.max_tokens;
  s.temperature = spec.temperature;
  s.top_k = spec.top_k;
  s.top_p = spec.top_p;
  s.min_p = spec.min_p;
  s.repetition_penalty = spec.repetition_penalty;
  s.seed = spec.seed;
  s.eos_ids = config.eos_token_ids;
  if (tokenizer.eos()) s.eos_ids.push_back(*tokenizer.eos());
  return request;
}

generate::GeneratorOptions OptionsFor(const generate::Request& request, const format::ModelConfig& config) {
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  generate::GeneratorOptions options;
  options.max_batch = std::min<int64_t>(request.num_samples, 16);
  options.max_sequence_tokens = prompt + request.sampling.max_new_tokens;
  if (config.max_position_embeddings > 0) {
    options.max_sequence_tokens = std::min(options.max_sequence_tokens, config.max_position_embeddings);
  }
  // Rounding to blocks, and the prompt's own copy.
  options.cache_tokens = options.max_batch * (options.max_sequence_tokens + 32) + prompt + 32;
  return options;
}

absl::Status Execute(const SampleSpec& spec, BaseModelCache* cache, const std::atomic<bool>& cancel,
                     const std::function<void(SamplePart)>& emit) {
  const auto target = TargetOf(spec);
  if (!target.ok()) return target.status();
  const auto source = format::OpenModelFor(spec.base_model_path, spec.adapter_dir);
  if (!source.ok()) return source.status();
  const auto tokenizer = (*source)->LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  const std::string chat = spec.chat_template.empty() ? (*source)->chat_template() : spec.chat_template;
  auto prompt = generate::PromptTokens({spec.prompt, spec.system_prompt, spec.raw, chat}, **tokenizer);
  if (!prompt.ok()) return prompt.status();
  const int64_t prompt_tokens = static_cast<int64_t>(prompt->size()), context = (*source)->config().max_position_embeddings;
  if (context > 0 && prompt_tokens >= context) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt: has ", prompt_tokens, " tokens, the model's context is ", context));
  }
  const auto base = LoadThroughCache(cache, **source, spec.base_model_path, LoadOptionsOf(spec, *target));
  if (!base.ok()) return base.status();
  std::unique_ptr<lora::Adapter> adapter;
  if (!spec.adapter_dir.empty()) {
    auto loaded = lora::LoadPeftFolder(spec.adapter_dir, (*base)->config, target->device, target->dtype);
    if (!loaded.ok()) return loaded.status();
    adapter = *std::move(loaded);
  }
  const generate::Request request = MakeRequest(spec, *std::move(prompt), (*base)->config, **tokenizer);
  generate::Generator generator(**base, adapter.get(), OptionsFor(request, (*base)->config));
  Writer writer(spec, **tokenizer, prompt_tokens, emit);
  return generator.Generate({request}, [&](const generate::TokenEvent& e) { return writer.Take(e); }, &cancel).status();
}

}  // namespace

absl::Status RunSample(const SampleSpec& spec, BaseModelCache* cache, const std::atomic<bool>& cancel,
                       const std::function<void(SamplePart)>& emit) {
  absl::Status status;
  try {
    c10::InferenceMode no_autograd;
    status = Execute(spec, cache, cancel, emit);
  } catch (const c10::OutOfMemoryError&) {
    status = absl::ResourceExhaustedError(
        "not enough device memory to generate; lower max_tokens or num_samples");
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("not enough host memory to generate; lower max_tokens or num_samples");
  } catch (const c10::Error& e) {
    const std::string what = e.what_without_backtrace();
    status = absl::InternalError(what.substr(0, what.find('\n')));
  } catch (const std::exception& e) {
    status = absl::InternalError(e.what());
  }
  const auto target = TargetOf(spec);
  if (target.ok()) ReleaseCachedMemory(target->device);
  return status;
}

}  // namespace finetuned::train
