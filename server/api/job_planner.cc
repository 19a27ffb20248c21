#include "server/api/job_planner.h"

#include <algorithm>
#include <cmath>

#include <google/protobuf/util/time_util.h>

#include "absl/strings/str_cat.h"
#include "engine/format/model_layout.h"
#include "engine/format/peft_config.h"
#include "engine/plan/auto_settings.h"
#include "engine/plan/head.h"
#include "engine/plan/module_pattern.h"
#include "engine/plan/precision.h"
#include "engine/plan/rollout.h"
#include "engine/plan/suggest.h"
#include "engine/reward/reward.h"
#include "proto/spec/resolve.h"
#include "proto/spec/start_adapter.h"
#include "proto/spec/tools.h"
#include "server/api/dataset_proto.h"
#include "server/api/error.h"
#include "server/api/names.h"
#include "server/api/plan_choices.h"

namespace finetuned::api {
namespace {

using v1::JobSpec;

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

// Patterns of module names that are no regular expressions.
std::vector<spec::Violation> CheckPatterns(const JobSpec& spec) {
  std::vector<spec::Violation> out;
  const auto check = [&](const std::string& field, const std::string& pattern) {
    const absl::Status s = plan::CheckModulePattern(pattern);
    if (!s.ok()) out.push_back({absl::StrCat("job.spec.", field), absl::StrCat("\"", pattern, "\" ", s.message())});
  };
  for (const std::string& pattern : spec.quantization().skip_modules()) check("quantization.skip_modules", pattern);
  for (const auto& [pattern, rank] : spec.lora().rank_pattern()) check("lora.rank_pattern", pattern);
  for (const auto& [pattern, alpha] : spec.lora().alpha_pattern()) check("lora.alpha_pattern", pattern);
  return out;
}

plan::Rollout RolloutOf(const JobSpec& spec) {
  const int64_t per_step = int64_t{spec.schedule().micro_batch_size()} * spec.schedule().gradient_accumulation_steps();
  const int64_t asked = int64_t{spec.grpo().prompts_per_rollout()} * spec.grpo().group_size();
  return plan::RolloutOf(asked > 0 ? asked : per_step, spec.schedule().max_seq_length(),
                         spec.grpo().max_completion_tokens());
}

plan::PlanInput ToPlanInput(const JobSpec& spec, const format::ModelConfig& model) {
  plan::PlanInput in;
  in.model = model;
  in.method = plan::ParseMethod(spec::MethodName(spec));
  in.base = plan::ParseBaseFormat(spec.quantization().base());
  in.double_quant = spec.quantization().double_quant();
  in.int8_products = in.base == plan::BaseFormat::kInt8 && spec.quantization().int8_threshold() > 0;
  in.skip_modules.assign(spec.quantization().skip_modules().begin(), spec.quantization().skip_modules().end());
  in.nf4_lm_head = spec.quantization().lm_head() == "nf4";
  in.embed_on_device = spec.quantization().embed_tokens() == "device";
  in.compute_bytes = spec.compute().dtype() == "f32" ? 4 : 2;
  in.on_gpu = spec.compute().device() == "cuda";
  in.lora_rank = spec.lora().rank();
  in.lora_dropout = spec.lora().dropout() > 0;
  in.target_modules.assign(spec.lora().target_modules().begin(), spec.lora().target_modules().end());
  in.rank_pattern = {spec.lora().rank_pattern().begin(), spec.lora().rank_pattern().end()};
  in.lora_layers.assign(spec.lora().layers_to_transform().begin(), spec.lora().layers_to_transform().end());
  in.mixed_scaling = spec.lora().rank_pattern_size() + spec.lora().alpha_pattern_size() > 0;
  in.use_dora = spec.lora().use_dora();
  in.biases = plan::ParseBiases(spec.lora().bias());
  in.model.vocab_size += spec.lora().new_tokens_size();  // fewer where the base has spare rows
  for (const std::string& module : spec.lora().modules_to_save()) {
    in.train_embed_tokens |= module == "embed_tokens";
    in.train_lm_head |= module == "lm_head";
  }
  in.optimizer = spec.optimizer().kind() == "adamw" ? plan::Optimizer::kAdamW : plan::Optimizer::kAdamW8bit;
  in.micro_batch_size = spec.schedule().micro_batch_size();
  in.max_seq_length = spec.schedule().max_seq_length();
  in.deterministic = spec.deterministic();
  plan::ParseCheckpointing(spec.compute().activation_checkpointing(), &in);  // "auto" is decided later
  if (spec.has_grpo()) {
    in.rollout = RolloutOf(spec);
  } else if (spec.evaluation().sample_prompts() > 0) {
    in.rollout = plan::EvalSamples(spec.evaluation().sample_prompts(), spec.schedule().max_seq_length());
  }
  in.frozen_adapter = !spec.init_adapter().empty() && (spec.has_kto() || (spec.has_dpo() && !spec.dpo().reference_free()) ||
                                                       (spec.has_grpo() && spec.grpo().beta() != 0));
  in.activation_offload = spec.compute().activation_offload() == "on";
  in.precision = plan::ParsePrecision(spec.compute().matmul_precision());
  if (spec.quantization().has_standing_layers()) in.standing_layers = spec.quantization().standing_layers();
  return in;
}

// A base that bitsandbytes stored quantized is kept as it is, unless the job asks for another format.
v1::Job WithStoredBase(v1::Job job, const format::ModelConfig& model) {
  v1::QuantizationSpec* quantization = job.mutable_spec()->mutable_quantization();
  if (model.stored_base.empty()) return job;
  if (quantization->base().empty()) quantization->set_base(model.stored_base);
  if (quantization->base() == model.stored_base) quantization->set_double_quant(model.stored_double_quant);
  return job;
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

}  // namespace

void ApplyPlanInput(const plan::PlanInput& in, JobSpec* spec) {
  v1::ScheduleSpec* schedule = spec->mutable_schedule();
  const int64_t before = schedule->micro_batch_size(), rows = in.micro_batch_size;
  if (before > rows && before % rows == 0) {
    // An optimizer step sees the same rows.
    schedule->set_gradient_accumulation_steps(
        static_cast<int32_t>(schedule->gradient_accumulation_steps() * (before / rows)));
  }
  schedule->set_micro_batch_size(static_cast<int32_t>(rows));
  schedule->set_max_seq_length(static_cast<int32_t>(in.max_seq_length));
  spec->mutable_compute()->set_activation_checkpointing(plan::CheckpointingName(in));
  spec->mutable_compute()->set_activation_offload(in.activation_offload ? "on" : "off");
  spec->mutable_quantization()->set_base(plan::BaseFormatName(in.base));
  if (in.standing_layers >= 0) spec->mutable_quantization()->set_standing_layers(static_cast<int32_t>(in.standing_layers));
  spec->mutable_optimizer()->set_kind(in.optimizer == plan::Optimizer::kAdamW ? "adamw" : "adamw_8bit");
  spec->mutable_lora()->set_rank(static_cast<int32_t>(in.lora_rank));
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

absl::Status JobPlanner::TakeInitAdapter(v1::Job* job) const {
  const std::string& name = job->spec().init_adapter();
  if (name.empty()) return absl::OkStatus();
  const auto id = ParseName("adapters", name, "job.spec.init_adapter");
  if (!id.ok()) return id.status();
  const auto record = daemon_.store->GetAdapter(name);
  if (absl::IsNotFound(record.status())) return NotFound("Adapter", name);
  if (!record.ok()) return record.status();
  if (record->adapter.sha256().empty()) {
    return InvalidField("job.spec.init_adapter", absl::StrCat(name, " is an export without adapter files"));
  }
  if (record->adapter.base_model() != job->spec().base_model()) {
    return InvalidField("job.spec.init_adapter", absl::StrCat(name, " was trained on ", record->adapter.base_model(),
                                                              ", the job's base_model is ", job->spec().base_model()));
  }
  const auto config = format::ReadPeftConfig(record->directory);
  if (!config.ok()) {
    return InvalidField("job.spec.init_adapter", absl::StrCat(name, ": ", config.status().message()));
  }
  const spec::StartAdapter start = spec::StartAdapterOf(*config);
  const std::vector<spec::Violation> violations = spec::CheckStartAdapter(start, job->spec().lora());
  if (!violations.empty()) return InvalidFields(violations);
  spec::TakeStartAdapter(start, job->mutable_spec()->mutable_lora());
  return absl::OkStatus();
}

absl::StatusOr<PlannedJob> JobPlanner::Plan(const v1::Job& sent) const {
  v1::Job job = sent;
  const std::vector<spec::Violation> violations = spec::ValidateSpec(job.spec());
  if (!violations.empty()) return InvalidFields(violations);
  if (const auto rewards = CheckRewards(job.spec()); !rewards.empty()) return InvalidFields(rewards);
  if (const auto patterns = CheckPatterns(job.spec()); !patterns.empty()) return InvalidFields(patterns);
  if (absl::Status s = TakeInitAdapter(&job); !s.ok()) return s;
  PlannedJob out;
  const std::string method = spec::IsTool(job.spec()) ? "sft" : spec::MethodName(job.spec());
  if (!job.spec().dataset().empty()) {
    auto dataset = FindDataset(job.spec().dataset(), "job.spec.dataset", method);
    if (!dataset.ok()) return dataset.status();
    out.dataset = *std::move(dataset);
    out.dataset_path = daemon_.store->layout().DatasetFile(out.dataset.sha256());
  }
  if (!job.spec().eval_dataset().empty()) {
    const auto held_out = FindDataset(job.spec().eval_dataset(), "job.spec.eval_dataset", method);
    if (!held_out.ok()) return held_out.status();
  }
  auto model = models_->Open(job.spec().base_model());
  if (!model.ok()) return model.status();
  out.device = FindDeviceBudget(daemon_, job);
  out.model = *std::move(model);
  const format::ModelConfig& config = out.model->source().config();
  const absl::Status settled = Settle(WithStoredBase(job, config), config, &out);
  if (!settled.ok()) return settled;
  return out;
}

absl::Status JobPlanner::Settle(const v1::Job& job, const format::ModelConfig& config, PlannedJob* out) const {
  if (job.spec().compute().device() == "cuda" && !out->device.gpu) {
    return InvalidField("job.spec.compute.device", "is cuda, but this daemon has no GPU; use auto or cpu");
  }
  const v1::QuantizationSpec& quantization = job.spec().quantization();
  const absl::Status head = plan::CheckHeadStorage(config, quantization.lm_head(), quantization.embed_tokens());
  if (!head.ok()) return InvalidField("job.spec.quantization", std::string(head.message()));
  const int64_t limit = config.max_position_embeddings;
  auto resolved = spec::ResolveSpec(job.spec(), {limit, out->device.gpu});
  if (!resolved.ok()) {
    return absl::IsUnimplemented(resolved.status())
               ? NotAvailable("job.spec", std::string(resolved.status().message()))
               : InvalidField("job.spec.schedule.max_seq_length", std::string(resolved.status().message()));
  }
  out->resolved = *std::move(resolved);
  out->input = ToPlanInput(out->resolved, config);
  const absl::Status linears = format::CheckLinearNames(out->input.target_modules, config);
  if (!linears.ok()) return InvalidField("job.spec.lora.target_modules", std::string(linears.message()));
  out->input.device = out->device.constants;
  std::optional<plan::DataLengths> lengths;
  if (out->model != nullptr && !out->dataset_path.empty()) {
    const absl::Status first_row = CheckFirstRow(*out);
    if (!first_row.ok()) return first_row;
    if (NeedsLengths(job.spec(), out->device)) {
      PlannedJob uncut = *out;
      if (job.spec().schedule().max_seq_length() == 0) {
        uncut.resolved.mutable_schedule()->set_max_seq_length(static_cast<int32_t>(limit > 0 ? limit : 1 << 20));
      }
      const auto counted = CountTokens(uncut);
      if (!counted.ok()) return counted.status();
      out->uncut = *counted;
      lengths = LengthsOf(counted->stats, out->resolved.sft().packing());
    }
  }
  if (spec::IsTool(job.spec())) {
    out->input.micro_batch_size = 1;  // rows are measured one by one
  } else {
    ChooseOpenSettings(job.spec(), out->device, lengths, limit, out);
  }
  out->memory = ToProto(plan::PlanMemory(out->input));
  out->memory.set_budget_bytes(out->device.bytes);
  out->memory.set_device_free_bytes(out->device.free_bytes);
  out->memory.set_other_processes_bytes(out->device.other_bytes);
  out->memory.set_measured(out->device.constants.context_bytes != plan::DeviceConstants().context_bytes);
  out->memory.set_host_bytes(plan::PlanHostMemory(out->input));
  out->memory.set_confidence_margin(out->device.gpu ? kDeviceReserve : 0);
  return absl::OkStatus();
}

absl::StatusOr<PlannedJob> JobPlanner::PlanShape(const v1::Job& job) const {
  std::vector<spec::Violation> violations = spec::ValidateSpec(job.spec());
  std::erase_if(violations, [](const spec::Violation& v) {
    return v.path == "job.spec.dataset" || v.path == "job.spec.grpo.builtin_rewards";  // neither takes device memory
  });
  if (!violations.empty()) return InvalidFields(violations);
  const auto config = models_->Shape(job.spec().base_model());
  if (!config.ok()) return config.status();
  PlannedJob out;
  out.device = ImaginedBudget(daemon_, job);
  const absl::Status settled = Settle(job, *config, &out);
  if (!settled.ok()) return settled;
  return out;
}

absl::Status JobPlanner::CheckFits(const PlannedJob& planned) {
  const int64_t host = planned.memory.host_bytes();
  if (host > planned.device.host_bytes) {
    return QuotaExceeded("host memory", "HOST_MEMORY_EXCEEDED",
                         absl::StrCat("compute.activation_offload needs ", plan::FormatGigabytes(host),
                                      " of pinned host memory, ", plan::FormatGigabytes(planned.device.host_bytes),
                                      " of this host's free memory may be used; set it to auto or off, or lower "
                                      "schedule.micro_batch_size or schedule.max_seq_length"));
  }
  const int64_t budget = planned.memory.budget_bytes();
  const int64_t total = planned.memory.total_bytes();
  if (budget == 0 || total <= budget) return absl::OkStatus();
  const auto suggestions = plan::SuggestFitting(planned.input, budget, planned.device.host_bytes);
  const std::string suggestion = suggestions.empty() ? "no smaller setting fits either" : suggestions[0].message;
  return VramExceeded(total, budget, suggestion,
                      absl::StrCat("needs ", plan::FormatGigabytes(total), ", you have ",
                                   plan::FormatGigabytes(budget), "; ", suggestion));
}

std::vector<v1::SpecSuggestion> JobPlanner::Suggest(const PlannedJob& planned) {
  std::vector<v1::SpecSuggestion> out;
  const int64_t budget = planned.memory.budget_bytes();
  if (budget == 0 || planned.memory.total_bytes() <= budget) return out;
  for (const plan::Suggestion& suggestion : plan::SuggestFitting(planned.input, budget, planned.device.host_bytes)) {
    v1::SpecSuggestion& one = out.emplace_back();
    for (const std::string& field : suggestion.fields) {
      one.mutable_fields()->add_paths(field);
      if (field == "schedule.micro_batch_size") {
        one.mutable_fields()->add_paths("schedule.gradient_accumulation_steps");
      }
    }
    *one.mutable_proposed() = planned.resolved;
    ApplyPlanInput(suggestion.input, one.mutable_proposed());
    one.set_saved_bytes(planned.memory.total_bytes() - suggestion.total_bytes);
    one.set_total_bytes(suggestion.total_bytes);
    one.set_message(suggestion.message);
  }
  return out;
}

absl::StatusOr<v1::JobPlan> JobPlanner::FullPlan(const v1::Job& job) const {
  const bool shape_only = job.spec().dataset().empty();
  const auto planned = shape_only ? PlanShape(job) : Plan(job);
  if (!planned.ok()) return planned.status();
  v1::JobPlan out;
  *out.mutable_resolved_spec() = planned->resolved;
  *out.mutable_memory() = planned->memory;
  for (const v1::SettingChoice& choice : planned->choices) *out.add_choices() = choice;
  const absl::Status fits = CheckFits(*planned);
  out.set_admissible(fits.ok());
  if (!fits.ok()) *out.add_problems() = ToRpcStatus(fits);
  for (v1::SpecSuggestion& suggestion : Suggest(*planned)) *out.add_suggestions() = std::move(suggestion);
  out.set_estimated_disk_bytes(EstimateDisk(*planned));
  out.set_estimated_tokens_per_second(planned->tokens_per_second);
  if (shape_only) {
    if (plan::FindDeviceSpeed(planned->device.product) == nullptr) {
      out.add_warnings(absl::StrCat("speed is estimated for a ", plan::ReferenceDevice().product));
    }
    return out;
  }
  const bool all_seen = planned->uncut.has_value() &&
                        planned->uncut->stats.max_tokens() <= planned->resolved.schedule().max_seq_length();
  const auto counted = all_seen ? absl::StatusOr<TokenCount>(*planned->uncut) : CountTokens(*planned);
  if (!counted.ok()) return counted.status();
  *out.mutable_dataset_stats() = counted->stats;
  for (const std::string& warning : counted->warnings) out.add_warnings(warning);
  const double seconds = EstimateSeconds(*planned, counted->stats);
  if (seconds > 0) {
    *out.mutable_estimated_duration() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(std::llround(seconds * 1000));
  }
  return out;
}

}  // namespace finetuned::api
