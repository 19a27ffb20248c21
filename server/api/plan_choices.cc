#include "server/api/plan_choices.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace finetuned::api {
namespace {

void Choose(PlannedJob* job, std::string field, std::string value, std::string reason) {
  v1::SettingChoice choice;
  choice.set_field(std::move(field));
  choice.set_value(std::move(value));
  choice.set_reason(std::move(reason));
  job->choices.push_back(std::move(choice));
}

bool OpenSwitch(const std::string& value) { return value.empty() || value == "auto"; }

// Where memory is no limit: the defaults of proto/spec/resolve.h.
void ChooseDefaults(const v1::JobSpec& sent, PlannedJob* job) {
  const v1::ScheduleSpec& schedule = job->resolved.schedule();
  if (sent.schedule().micro_batch_size() == 0) {
    Choose(job, "schedule.micro_batch_size", absl::StrCat(schedule.micro_batch_size()), "default without a memory limit");
  }
  if (sent.schedule().max_seq_length() == 0) {
    Choose(job, "schedule.max_seq_length", absl::StrCat(schedule.max_seq_length()), "default for this model");
  }
}

}  // namespace

bool NeedsLengths(const v1::JobSpec& sent, const DeviceBudget& device) {
  return device.bytes > 0 && !sent.has_grpo() &&
         (sent.schedule().max_seq_length() == 0 || sent.schedule().micro_batch_size() == 0);
}

plan::DataLengths LengthsOf(const v1::DatasetStats& stats, bool packed) {
  plan::DataLengths lengths;
  lengths.rows = stats.rows();
  lengths.tokens = stats.tokens();
  lengths.longest = stats.max_tokens();
  lengths.histogram.assign(stats.length_histogram().begin(), stats.length_histogram().end());
  lengths.packed = packed;
  return lengths;
}

void ChooseOpenSettings(const v1::JobSpec& sent, const DeviceBudget& device,
                        const std::optional<plan::DataLengths>& lengths, int64_t model_max_length, PlannedJob* job) {
  if (device.bytes == 0) {
    ChooseDefaults(sent, job);
    ApplyPlanInput(job->input, &job->resolved);
    return;
  }
  plan::AutoRequest request;
  request.input = job->input;
  request.accumulation = job->resolved.schedule().gradient_accumulation_steps();
  // GRPO's batches are made of groups and its length of prompt and completion: resolved as they belong together.
  const bool rollouts = sent.has_grpo();
  request.open_micro_batch = !rollouts && sent.schedule().micro_batch_size() == 0;
  request.open_accumulation = !rollouts && sent.schedule().gradient_accumulation_steps() == 0;
  request.open_length = !rollouts && sent.schedule().max_seq_length() == 0;
  request.open_rank = sent.lora().rank() == 0;
  // Products in 8 bits come from an NF4 base alone.
  request.open_base = sent.quantization().base().empty() && job->input.precision == plan::MatmulPrecision::kCompute;
  request.open_checkpointing = OpenSwitch(sent.compute().activation_checkpointing());
  request.open_keep = request.open_checkpointing;
  request.open_offload = OpenSwitch(sent.compute().activation_offload());
  request.open_standing = !sent.quantization().has_standing_layers();
  request.host_bytes = device.host_bytes;
  request.model_max_length = model_max_length;
  request.data = lengths;
  request.budget_bytes = device.bytes;
  request.device = plan::FindDeviceSpeed(device.product);
  const plan::AutoSettings chosen = plan::ChooseSettings(request);
  job->input = chosen.input;
  const bool imagined = job->model == nullptr;
  if (request.device != nullptr || imagined) job->tokens_per_second = chosen.tokens_per_second;
  ApplyPlanInput(job->input, &job->resolved);
  job->resolved.mutable_schedule()->set_gradient_accumulation_steps(static_cast<int32_t>(chosen.accumulation));
  // Alpha's default follows the rank, which may have been chosen just now.
  if (!sent.lora().has_alpha()) job->resolved.mutable_lora()->set_alpha(2.0 * job->resolved.lora().rank());
  for (const plan::AutoChoice& choice : chosen.choices) Choose(job, choice.field, choice.value, choice.reason);
}

}  // namespace finetuned::api
