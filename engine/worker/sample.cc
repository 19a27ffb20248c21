#include "engine/worker/sample.h"

#include <atomic>
#include <utility>

#include "engine/train/sample.h"
#include "engine/worker/spec_from_proto.h"

namespace finetuned::worker {
namespace {

train::SampleSpec SpecOf(const internal::RunSample& sample, const std::string& device) {
  const v1::SampleRequest& r = sample.request();
  const job::TrainSpec run = ToTrainSpec(sample.spec(), "", {sample.base_model_path(), "", "", ""}, /*cpu_threads=*/0);
  train::SampleSpec spec;
  spec.base_model_path = sample.base_model_path();
  spec.adapter_dir = sample.adapter_dir();
  spec.base_quantization = run.base_quantization;
  spec.double_quant = run.double_quant;
  spec.int8_threshold = run.int8_threshold;
  spec.skip_modules = run.skip_modules;
  if (!run.matmul_precision.empty()) spec.matmul_precision = run.matmul_precision;
  spec.lm_head_quantization = run.lm_head_quantization;
  spec.embed_tokens = run.embed_tokens;
  spec.compute_dtype = run.compute_dtype;
  spec.device = run.device == "auto" ? device : run.device;
  spec.prompt = r.prompt();
  spec.system_prompt = r.system_prompt();
  spec.raw = r.raw();
  spec.chat_template = run.sft.chat_template;
  spec.num_samples = r.num_samples();
  spec.max_tokens = r.max_tokens();
  spec.temperature = r.temperature();
  spec.top_p = r.top_p();
  spec.top_k = r.top_k();
  spec.min_p = r.min_p();
  spec.repetition_penalty = r.repetition_penalty();
  spec.seed = r.seed();
  spec.stop.assign(r.stop().begin(), r.stop().end());
  return spec;
}

internal::WorkerMessage Piece(int64_t id, train::SamplePart part) {
  internal::WorkerMessage message;
  message.mutable_sample()->set_id(id);
  v1::SampleResponse* out = message.mutable_sample()->mutable_piece();
  out->set_index(static_cast<int32_t>(part.sample));
  out->set_text(std::move(part.text));
  out->mutable_tokens()->Add(part.tokens.begin(), part.tokens.end());
  out->mutable_logprobs()->Add(part.logprobs.begin(), part.logprobs.end());
  out->set_finish_reason(part.finish_reason);
  out->set_prompt_tokens(static_cast<int32_t>(part.prompt_tokens));
  out->set_tokens_per_second(part.tokens_per_second);
  return message;
}

internal::WorkerMessage Done(int64_t id, const absl::Status& status) {
  internal::WorkerMessage message;
  message.mutable_sample()->set_id(id);
  message.mutable_sample()->set_done(true);
  if (status.ok()) return message;
  message.mutable_sample()->mutable_error()->set_code(static_cast<int32_t>(status.code()));
  message.mutable_sample()->mutable_error()->set_message(std::string(status.message()));
  return message;
}

}  // namespace

void AnswerSample(Link& link, const internal::RunSample& sample, const std::string& device,
                  train::BaseModelCache* cache) {
  std::atomic<bool> cancel{false};
  link.SetSampling(sample.id(), &cancel);
  const absl::Status status = train::RunSample(SpecOf(sample, device), cache, cancel,
                                               [&](train::SamplePart part) {
                                                 link.Send(Piece(sample.id(), std::move(part)));
                                               });
  link.SetSampling(0, nullptr);
  link.Send(Done(sample.id(), status));
}

}  // namespace finetuned::worker
