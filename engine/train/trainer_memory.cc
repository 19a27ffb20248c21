// What the trainer does when device memory runs out; part of Trainer.
#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/plan/fall_back.h"
#include "engine/train/trainer.h"

namespace finetuned::train {

bool Trainer::ProbeLargestBatch() {
  const bool can_run_out = device_.is_cuda() || in_.memory != nullptr;
  if (!can_run_out || state_.step >= total_steps_) return true;
  for (;;) {
    std::string error;
    try {
      RunLargestBatch();
      return true;
    } catch (const c10::Error& e) {
      if (!IsOutOfMemory(e)) throw;
      error = e.what_without_backtrace();
    }
    if (!Replan(error)) return false;
  }
}

void Trainer::RunLargestBatch() {
  Window window = method_->ProbeWindow(plan_);
  window.step = state_.step + 1;
  const data::PackedBatch& batch = window.batches.front();
  Doing(absl::StrCat("trying the largest micro-batch: ", batch.input_ids.size(), " tokens in ",
                     batch.cu_seqlens.size() - 1, " documents, the longest of ", batch.max_seqlen,
                     " tokens"));
  // Wait: errors of the device belong here. The gradients are cleared before the first step.
  method_->AccumulateGradients(window).to(at::kCPU);
}

bool Trainer::Replan(const std::string& error) {
  decoder_.reset();
  ReleaseCachedMemory(device_);
  const int64_t available = memory_.Available(device_);
  // Of the plan's runtime part the context is not the allocator's.
  const int64_t budget = available > 0 ? available + plan_input_.device.context_bytes : 0;
  const auto next = plan::NextPlan(plan_input_, spec_.schedule.gradient_accumulation_steps, budget);
  if (!next.has_value()) return false;
  in_.observer->OnWarning(
      "REPLANNED",
      absl::StrCat("the plan of ", plan::FormatGigabytes(plan::PlanMemory(plan_input_).total()), " did not fit: ",
                   budget > 0 ? absl::StrCat(plan::FormatGigabytes(budget), " are left of the device")
                              : "the device is full",
                   ". Going on after step ", state_.step, " with ", next->changes, ": ",
                   plan::FormatGigabytes(plan::PlanMemory(next->input).total()), " (",
                   error.substr(0, error.find('\n')), ")"));
  state_.micro_batch = state_.micro_batch * spec_.schedule.micro_batch_size / next->input.micro_batch_size;
  plan_input_ = next->input;
  spec_.schedule.micro_batch_size = next->input.micro_batch_size;
  spec_.schedule.gradient_accumulation_steps = next->accumulation;
  spec_.activation_checkpointing = next->input.activation_checkpointing;
  plan_ = data::BatchPlan(in_.train->rows, BatchOptions(spec_), state_.epoch);
  state_.micro_batch = std::min(state_.micro_batch, plan_.micro_batches());
  decoder_.emplace(*in_.base, adapter_, DecoderOptions());
  return true;
}

absl::Status Trainer::LeaveForMemory() {
  const int64_t available = memory_.Available(device_);
  result_.outcome = job::Outcome::kCheckpointed;
  result_.reason = "OUT_OF_DEVICE_MEMORY";
  result_.last_step = state_.step;
  result_.message = absl::StrCat(
      "needs ", plan::FormatGigabytes(plan::PlanMemory(plan_input_).total()), ", and ",
      available > 0 ? absl::StrCat(plan::FormatGigabytes(available + plan_input_.device.context_bytes), " are left")
                    : std::string("less is left"),
      " of the device, at ", plan_input_.micro_batch_size, " rows at a time with recompute: another process holds ",
      "its memory; resume the job when that has ended");
  return state_.step > 0 ? Checkpoint() : absl::OkStatus();
}

}  // namespace finetuned::train
