#include "engine/train/method.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/train/dpo_method.h"
#include "engine/train/kto_method.h"
#include "engine/train/grpo_method.h"
#include "engine/train/sft_method.h"

namespace finetuned::train {
namespace {

// How many tokens of prompts may pass through the decoder's buffers together.
int64_t PromptTokensTogether(const MethodInputs& inputs) {
  const job::TrainSpec& spec = *inputs.spec;
  const int64_t tokens = spec.schedule.micro_batch_size * spec.schedule.max_seq_length;
  if (!spec.activation_checkpointing) return tokens;
  const int64_t piece = spec.activation_piece_rows > 0 ? spec.activation_piece_rows
                                                       : plan::LayerPieceRows(inputs.base->config.intermediate_size);
  return std::min(tokens, piece);
}

}  // namespace

absl::StatusOr<Window> Method::MakeWindow(int64_t, uint64_t) {
  return absl::InternalError("windows of this method come from its rows");
}

Window Method::ProbeWindow(const data::BatchPlan& plan) {
  Window window;
  window.batches.push_back(plan.Build(plan.LargestMicroBatch()));
  return window;
}

std::unique_ptr<Method> MakeMethod(const MethodInputs& inputs) {
  if (inputs.spec->method == "dpo") return std::make_unique<DpoMethod>(inputs);
  if (inputs.spec->method == "kto") return std::make_unique<KtoMethod>(inputs);
  if (inputs.spec->method == "grpo") return std::make_unique<GrpoMethod>(inputs);
  return std::make_unique<SftMethod>(inputs);
}

data::BatchPlanOptions BatchOptions(const job::TrainSpec& spec) {
  data::BatchPlanOptions o;
  o.packing = spec.schedule.packing ? data::Packing::kBestFit : data::Packing::kNone;
  o.rows_per_unit = spec.method == "dpo" ? 2 : 1;
  o.max_seq_length = spec.schedule.max_seq_length;
  o.micro_batch_size = spec.schedule.micro_batch_size;
  o.gradient_accumulation_steps = spec.schedule.gradient_accumulation_steps;
  o.shuffle = spec.schedule.shuffle;
  o.seed = spec.seed;
  return o;
}

data::BatchPlanOptions EvalBatchOptions(const job::TrainSpec& spec) {
  data::BatchPlanOptions o = BatchOptions(spec);
  o.shuffle = false;
  return o;
}

void AddEvalTotals(double targets, std::chrono::steady_clock::time_point start, std::map<std::string, double>* values) {
  (*values)["eval_tokens"] = targets;
  (*values)["eval_runtime"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

generate::GeneratorOptions GeneratorOptionsFor(const MethodInputs& inputs, const plan::Rollout& rollout,
                                               int64_t prefill_tokens) {
  generate::GeneratorOptions o;
  o.max_batch = rollout.sequences;
  o.cache_tokens = rollout.sequences * rollout.max_tokens;
  o.max_sequence_tokens = rollout.max_tokens;
  o.prefill_tokens = std::min(prefill_tokens, PromptTokensTogether(inputs));
  o.workspace = &inputs.decoder->workspace();
  o.standing = inputs.decoder->standing();
  o.deterministic = inputs.spec->deterministic;
  return o;
}

std::string DescribeBatch(const Window& window, const data::PackedBatch& batch) {
  return absl::StrCat("running step ", window.step, " on a micro-batch of ", batch.input_ids.size(),
                      " tokens in ", batch.cu_seqlens.size() - 1, " documents, the longest of ",
                      batch.max_seqlen, " tokens");
}

}  // namespace finetuned::train
