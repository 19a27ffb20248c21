// What the trainer does when device memory runs out; part of Trainer.
#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/plan/fall_back.h"
#include "engine/plan/host_memory.h"
#include "engine/train/trainer.h"

namespace finetuned::train {
namespace {

// The share of a plan that its run may take beyond it: what measurements showed at most (docs/measurements.md).
constexpr double kPlanMargin = 0.03;

// What of the device a process takes beside tensors.
int64_t OutsideAllocator(const plan::PlanInput& in) {
  return in.on_gpu ? in.device.context_bytes : in.device.cpu_process_bytes;
}

}  // namespace

bool Trainer::ProbeLargestBatch() {
  const bool can_run_out = device_.is_cuda() || in_.memory != nullptr;
  if (!can_run_out || state_.step >= total_steps_) return true;
  CapToPlan();
  for (;;) {
    std::string error;
    try {
      RunLargestBatch();
      return true;
    } catch (const c10::Error& e) {
      if (!IsOutOfMemory(e)) throw;
      error = e.what_without_backtrace();
    }
    if (!FindMemory(error)) return false;
  }
}

// 0: not known.
int64_t Trainer::MemoryOfTensors() const {
  const int64_t available = memory_.Available(device_);
  if (available == 0 || spec_.memory_limit_bytes == 0) return available;
  return std::clamp<int64_t>(spec_.memory_limit_bytes - OutsideAllocator(plan_input_), 1, available);
}

void Trainer::CapToPlan() {
  const int64_t planned = plan::PlanMemory(plan_input_).total() - OutsideAllocator(plan_input_);
  cap_ = planned + static_cast<int64_t>(kPlanMargin * static_cast<double>(planned));
  const int64_t most = MemoryOfTensors();
  capped_by_plan_ = most > cap_;
  if (most > 0) cap_ = std::min(cap_, most);
  CapMemory(device_, cap_);
}

bool Trainer::FindMemory(const std::string& error) {
  const int64_t most = MemoryOfTensors();
  if (!capped_by_plan_ || most <= cap_) return Replan(error);
  in_.observer->OnWarning(
      "PLAN_EXCEEDED",
      absl::StrCat("the plan of ", plan::FormatGigabytes(plan::PlanMemory(plan_input_).total()),
                   " is too low for this run; it goes on after step ", state_.step, " with up to ",
                   plan::FormatGigabytes(most + OutsideAllocator(plan_input_)), " (",
                   error.substr(0, error.find('\n')), ")"));
  cap_ = most;
  capped_by_plan_ = false;
  CapMemory(device_, cap_);
  return true;
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
  const int64_t available = MemoryOfTensors();
  const int64_t budget = available > 0 ? available + OutsideAllocator(plan_input_) : 0;
  const auto next = plan::NextPlan(plan_input_, spec_.schedule.gradient_accumulation_steps, budget,
                                   plan::OffloadBudget(plan::AvailableHostMemory()));
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
  spec_.keep_all_layers = next->input.keep_all_layers;
  spec_.keep_attention_layers = next->input.keep_attention_layers;
  spec_.activation_piece_rows = next->input.piece_rows;
  spec_.standing_layers = next->input.standing_layers;
  spec_.activation_offload = next->input.activation_offload;
  plan_ = data::BatchPlan(in_.train->rows, BatchOptions(spec_), state_.epoch);
  state_.micro_batch = std::min(state_.micro_batch, plan_.micro_batches());
  decoder_.emplace(*in_.base, adapter_, DecoderOptions(), in_.reference);
  CapToPlan();
  return true;
}

absl::Status Trainer::LeaveForMemory() {
  const int64_t available = MemoryOfTensors();
  const int64_t budget = available + OutsideAllocator(plan_input_);
  const bool limited = available > 0 && budget <= spec_.memory_limit_bytes;
  result_.outcome = job::Outcome::kCheckpointed;
  result_.reason = "OUT_OF_DEVICE_MEMORY";
  result_.last_step = state_.step;
  result_.message = absl::StrCat(
      "needs ", plan::FormatGigabytes(plan::PlanMemory(plan_input_).total()), ", and ",
      available > 0 ? absl::StrCat(plan::FormatGigabytes(budget), " are left") : std::string("less is left"),
      " of the device, at ", plan_input_.micro_batch_size, " rows at a time with recompute: ",
      limited ? "that is all the job may take; raise its limit"
              : "another process holds its memory; resume the job when that has ended");
  return state_.step > 0 ? Checkpoint() : absl::OkStatus();
}

}  // namespace finetuned::train
