#include "server/api/job_planner.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include <google/protobuf/util/time_util.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/plan/rollout.h"
#include "engine/plan/suggest.h"
#include "engine/reward/reward.h"
#include "proto/spec/resolve.h"
#include "server/api/dataset_proto.h"
#include "server/api/error.h"
#include "server/api/names.h"
#include "server/api/token_count.h"

namespace finetuned::api {
namespace {

using v1::JobSpec;

constexpr double kBudgetMargin = 0.03;  // of the device, for what others may take

// Arguments of rewards that cannot be right.
std::vector<spec::Violation> CheckRewards(const JobSpec& spec) {
  std::vector<spec::Violation> out;
  for (int i = 0; i < spec.grpo().builtin_rewards_size(); ++i) {
    const v1::BuiltinReward& r = spec.grpo().builtin_rewards(i);
    const auto made = reward::MakeReward(r.name(), {r.args().begin(), r.args().end()});
    if (!made.ok()) {
      out.push_back({absl::StrCat("job.spec.grpo.builtin_rewards[", i, "]"), std::string(made.status().message())});
    }
  }
  return out;
}

plan::Rollout RolloutOf(const JobSpec& spec) {
  const int64_t per_step = int64_t{spec.schedule().micro_batch_size()} * spec.schedule().gradient_accumulation_steps();
  const int64_t asked = int64_t{spec.grpo().prompts_per_rollout()} * spec.grpo().group_size();
  return plan::RolloutOf(asked > 0 ? asked : per_step, spec.schedule().max_seq_length());
}

plan::PlanInput ToPlanInput(const JobSpec& spec, const format::ModelConfig& model) {
  plan::PlanInput in;
  in.model = model;
  in.method = plan::ParseMethod(MethodName(spec));
  in.base = plan::ParseBaseFormat(spec.quantization().base());
  in.compute_bytes = spec.compute().dtype() == "f32" ? 4 : 2;
  in.on_gpu = spec.compute().device() == "cuda";
  in.lora_rank = spec.lora().rank();
  in.lora_dropout = spec.lora().dropout() > 0;
  in.target_modules.assign(spec.lora().target_modules().begin(), spec.lora().target_modules().end());
  in.optimizer = spec.optimizer().kind() == "adamw" ? plan::Optimizer::kAdamW : plan::Optimizer::kAdamW8bit;
  in.micro_batch_size = spec.schedule().micro_batch_size();
  in.max_seq_length = spec.schedule().max_seq_length();
  in.activation_checkpointing = spec.compute().activation_checkpointing() == "on";
  if (spec.has_grpo()) in.rollout = RolloutOf(spec);
  return in;
}

// The settings of `in` that a suggestion may change, written back.
void ApplyPlanInput(const plan::PlanInput& in, JobSpec* spec) {
  spec->mutable_schedule()->set_micro_batch_size(static_cast<int32_t>(in.micro_batch_size));
  spec->mutable_schedule()->set_max_seq_length(static_cast<int32_t>(in.max_seq_length));
  spec->mutable_compute()->set_activation_checkpointing(in.activation_checkpointing ? "on" : "off");
  spec->mutable_quantization()->set_base(plan::BaseFormatName(in.base));
  spec->mutable_optimizer()->set_kind(in.optimizer == plan::Optimizer::kAdamW ? "adamw" : "adamw_8bit");
  spec->mutable_lora()->set_rank(static_cast<int32_t>(in.lora_rank));
}

v1::MemoryEstimate ToProto(const plan::MemoryPlan& memory) {
  v1::MemoryEstimate out;
  out.set_weights_bytes(memory.component("weights"));
  out.set_adapter_bytes(memory.component("adapter"));
  out.set_gradient_bytes(memory.component("gradients"));
  out.set_optimizer_bytes(memory.component("optimizer"));
  out.set_activation_bytes(memory.component("activations"));
  out.set_logits_bytes(memory.component("logits"));
  out.set_kv_cache_bytes(memory.component("kv_cache"));
  out.set_runtime_bytes(memory.component("runtime"));
  out.set_total_bytes(memory.total());
  for (const plan::Buffer& buffer : memory.buffers) {
    v1::MemoryItem* item = out.add_items();
    item->set_name(buffer.name);
    item->set_component(buffer.component);
    item->set_bytes(buffer.bytes);
  }
  return out;
}

void Choose(PlannedJob* job, std::string field, std::string value, std::string reason) {
  v1::SettingChoice choice;
  choice.set_field(std::move(field));
  choice.set_value(std::move(value));
  choice.set_reason(std::move(reason));
  job->choices.push_back(std::move(choice));
}

// Decides what the caller left open so that the plan fits the budget, as far as that is possible:
// first recompute, which costs time only, then smaller micro-batches with more accumulation, which
// leave the optimizer step what it was.
void ChooseSettings(const JobSpec& sent, int64_t budget, PlannedJob* job) {
  const auto fits = [&] { return budget == 0 || plan::PlanMemory(job->input).total() <= budget; };
  const std::string wish = sent.compute().activation_checkpointing();
  if ((wish.empty() || wish == "auto") && !fits()) {
    job->input.activation_checkpointing = true;
    Choose(job, "compute.activation_checkpointing", "on", "kept activations would not fit the device memory");
  }
  const bool open = sent.schedule().micro_batch_size() == 0;
  int64_t accumulate = job->resolved.schedule().gradient_accumulation_steps();
  while (open && job->input.micro_batch_size > 1 && !fits()) {
    job->input.micro_batch_size /= 2;
    if (sent.schedule().gradient_accumulation_steps() == 0) accumulate *= 2;
  }
  ApplyPlanInput(job->input, &job->resolved);
  job->resolved.mutable_schedule()->set_gradient_accumulation_steps(static_cast<int32_t>(accumulate));
  if (open) {
    Choose(job, "schedule.micro_batch_size", absl::StrCat(job->input.micro_batch_size),
           fits() ? "the largest tried size that fits" : "the smallest, and it still does not fit");
  }
  if (sent.schedule().max_seq_length() == 0) {
    Choose(job, "schedule.max_seq_length", absl::StrCat(job->input.max_seq_length), "default for this model");
  }
}

}  // namespace

std::string MethodName(const JobSpec& spec) {
  switch (spec.method_case()) {
    case JobSpec::kDpo: return "dpo";
    case JobSpec::kKto: return "kto";
    case JobSpec::kGrpo: return "grpo";
    default: return "sft";
  }
}

JobPlanner::Device JobPlanner::FindDevice(const v1::Job& job) const {
  Device device;
  const std::string wish = daemon_.config->worker.device;
  if (wish == "cpu" || job.spec().compute().device() == "cpu") return device;
  const jobs::WorkerStatus worker = daemon_.jobs->Worker();
  if (worker.hello.has_value()) {
    device.gpu = absl::StartsWith(worker.hello->device(), "cuda");
    device.budget_bytes = static_cast<int64_t>(static_cast<double>(worker.hello->device_total_bytes()) *
                                               (1.0 - kBudgetMargin));
    device.free_bytes = worker.hello->device_free_bytes();
    const size_t space = worker.hello->device().find(' ');
    if (space != std::string::npos) device.product = worker.hello->device().substr(space + 1);
  } else {
    // No worker has said anything yet: the driver's control node tells whether there is a GPU.
    device.gpu = wish == "cuda" || access("/dev/nvidiactl", F_OK) == 0;
  }
  if (!device.gpu) return Device{};
  if (daemon_.config->worker.vram_budget_bytes > 0) device.budget_bytes = daemon_.config->worker.vram_budget_bytes;
  const int64_t limit = job.scheduling().vram_limit_bytes();
  if (limit > 0) device.budget_bytes = device.budget_bytes > 0 ? std::min(device.budget_bytes, limit) : limit;
  return device;
}

absl::StatusOr<v1::Dataset> JobPlanner::FindDataset(const std::string& name, const std::string& field,
                                                    const std::string& method) const {
  const auto id = ParseName("datasets", name, field);
  if (!id.ok()) return id.status();
  const auto record = daemon_.store->GetDataset(name);
  if (absl::IsNotFound(record.status())) return NotFound("Dataset", name);
  if (!record.ok()) return record.status();
  const v1::Dataset& dataset = record->dataset;
  if (dataset.state() != v1::Dataset::ACTIVE) {
    return WrongState(name, "INVALID_DATASET",
                      absl::StrCat(name, " is ", v1::Dataset::State_Name(dataset.state()), " with ",
                                   dataset.error_count(), " errors; correct the file and upload it again"));
  }
  if (dataset.method() != method) {
    return InvalidField(field, absl::StrCat(name, " was uploaded for ", dataset.method(), ", the job's method is ",
                                            method, "; upload it for ", method));
  }
  return dataset;
}

absl::StatusOr<PlannedJob> JobPlanner::Plan(const v1::Job& job) const {
  const std::vector<spec::Violation> violations = spec::ValidateSpec(job.spec());
  if (!violations.empty()) return InvalidFields(violations);
  if (const auto rewards = CheckRewards(job.spec()); !rewards.empty()) return InvalidFields(rewards);
  const std::vector<spec::Violation> unavailable = spec::UnavailableFeatures(job.spec());
  if (!unavailable.empty()) return NotAvailable(unavailable[0].path, unavailable[0].message);

  PlannedJob out;
  const std::string method = MethodName(job.spec());
  auto dataset = FindDataset(job.spec().dataset(), "job.spec.dataset", method);
  if (!dataset.ok()) return dataset.status();
  if (!job.spec().eval_dataset().empty()) {
    const auto held_out = FindDataset(job.spec().eval_dataset(), "job.spec.eval_dataset", method);
    if (!held_out.ok()) return held_out.status();
  }
  auto model = models_->Open(job.spec().base_model());
  if (!model.ok()) return model.status();
  const Device device = FindDevice(job);
  if (job.spec().compute().device() == "cuda" && !device.gpu) {
    return InvalidField("job.spec.compute.device", "is cuda, but this daemon has no GPU; use auto or cpu");
  }
  const format::ModelConfig& config = (*model)->source().config();
  auto resolved = spec::ResolveSpec(job.spec(), {config.max_position_embeddings, device.gpu});
  if (!resolved.ok()) {
    return absl::IsUnimplemented(resolved.status())
               ? NotAvailable("job.spec", std::string(resolved.status().message()))
               : InvalidField("job.spec.schedule.max_seq_length", std::string(resolved.status().message()));
  }
  out.resolved = *std::move(resolved);
  out.input = ToPlanInput(out.resolved, config);
  ChooseSettings(job.spec(), device.budget_bytes, &out);
  out.memory = ToProto(plan::PlanMemory(out.input));
  out.memory.set_budget_bytes(device.budget_bytes);
  out.memory.set_device_free_bytes(device.free_bytes);
  out.memory.set_confidence_margin(device.gpu ? kBudgetMargin : 0);
  out.model = *std::move(model);
  out.dataset = *std::move(dataset);
  out.dataset_path = daemon_.store->layout().DatasetFile(out.dataset.sha256());
  const absl::Status first_row = CheckFirstRow(out);
  if (!first_row.ok()) return first_row;
  return out;
}

absl::Status JobPlanner::CheckFits(const PlannedJob& planned) {
  const int64_t budget = planned.memory.budget_bytes();
  const int64_t total = planned.memory.total_bytes();
  if (budget == 0 || total <= budget) return absl::OkStatus();
  const auto suggestions = plan::SuggestFitting(planned.input, budget);
  const std::string suggestion = suggestions.empty() ? "no smaller setting fits either" : suggestions[0].message;
  return VramExceeded(total, budget, suggestion,
                      absl::StrCat("needs ", plan::FormatGigabytes(total), ", you have ",
                                   plan::FormatGigabytes(budget), "; ", suggestion));
}

std::vector<v1::SpecSuggestion> JobPlanner::Suggest(const PlannedJob& planned) {
  std::vector<v1::SpecSuggestion> out;
  const int64_t budget = planned.memory.budget_bytes();
  if (budget == 0 || planned.memory.total_bytes() <= budget) return out;
  for (const plan::Suggestion& suggestion : plan::SuggestFitting(planned.input, budget)) {
    v1::SpecSuggestion& one = out.emplace_back();
    for (const std::string& field : suggestion.fields) one.mutable_fields()->add_paths(field);
    *one.mutable_proposed() = planned.resolved;
    ApplyPlanInput(suggestion.input, one.mutable_proposed());
    one.set_saved_bytes(planned.memory.total_bytes() - suggestion.total_bytes);
    one.set_total_bytes(suggestion.total_bytes);
    one.set_message(suggestion.message);
  }
  return out;
}

absl::StatusOr<v1::JobPlan> JobPlanner::FullPlan(const v1::Job& job) const {
  const auto planned = Plan(job);
  if (!planned.ok()) return planned.status();
  const auto counted = CountTokens(*planned);
  if (!counted.ok()) return counted.status();
  v1::JobPlan out;
  *out.mutable_resolved_spec() = planned->resolved;
  *out.mutable_memory() = planned->memory;
  *out.mutable_dataset_stats() = counted->stats;
  for (const v1::SettingChoice& choice : planned->choices) *out.add_choices() = choice;
  for (const std::string& warning : counted->warnings) out.add_warnings(warning);
  const absl::Status fits = CheckFits(*planned);
  out.set_admissible(fits.ok());
  if (!fits.ok()) *out.add_problems() = ToRpcStatus(fits);
  for (v1::SpecSuggestion& suggestion : Suggest(*planned)) *out.add_suggestions() = std::move(suggestion);
  out.set_estimated_disk_bytes(EstimateDisk(*planned));
  const double seconds = EstimateSeconds(*planned, counted->stats, FindDevice(job).product);
  if (seconds > 0) {
    *out.mutable_estimated_duration() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(std::llround(seconds * 1000));
  }
  return out;
}

}  // namespace finetuned::api
