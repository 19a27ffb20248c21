#include "engine/grpo/rollout_schedule.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/data/shuffle.h"

namespace finetuned::grpo {
namespace {

// Keeps the order of groups apart from that of the prompts.
constexpr uint64_t kGroupStream = 0x636f6d706c657465u;

int64_t PromptsPerRollout(const ScheduleOptions& o) {
  if (o.prompts_per_rollout > 0) return o.prompts_per_rollout;
  return o.micro_batch_size * o.accumulation / o.group_size;
}

std::vector<int64_t> Order(int64_t n, bool shuffle, data::SplitMix64 generator) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (shuffle) data::Shuffle(&generator, &order);
  return order;
}

}  // namespace

absl::Status RolloutSchedule::Check(const ScheduleOptions& o) {
  const int64_t per_step = o.micro_batch_size * o.accumulation;
  const std::string step = absl::StrCat("schedule.micro_batch_size * gradient_accumulation_steps (",
                                        per_step, " completions)");
  if (o.prompts_per_rollout == 0 && per_step % o.group_size != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("grpo.group_size: an optimizer step takes ", step, ", which is not a multiple of the group of ",
                     o.group_size, "; change one of them or set grpo.prompts_per_rollout"));
  }
  const int64_t prompts = PromptsPerRollout(o);
  if (prompts * o.group_size % per_step != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("grpo.prompts_per_rollout: ", prompts, " groups of ", o.group_size,
                     " do not fill optimizer steps of ", step));
  }
  if (o.prompts < prompts) {
    return absl::FailedPreconditionError(absl::StrCat("grpo.prompts_per_rollout: a rollout samples ", prompts,
                                                      " prompts, the dataset has ", o.prompts));
  }
  return absl::OkStatus();
}

RolloutSchedule::RolloutSchedule(const ScheduleOptions& options)
    : options_(options),
      per_rollout_(PromptsPerRollout(options)),
      windows_(per_rollout_ * options.group_size / (options.micro_batch_size * options.accumulation)),
      rollouts_per_epoch_(options.prompts / per_rollout_) {}

std::vector<int64_t> RolloutSchedule::PromptsOf(int64_t rollout) const {
  const int64_t epoch = rollout / rollouts_per_epoch_;
  const std::vector<int64_t> order =
      Order(options_.prompts, options_.shuffle, data::EpochGenerator(options_.seed, epoch));
  const auto first = order.begin() + (rollout % rollouts_per_epoch_) * per_rollout_;
  return {first, first + per_rollout_};
}

std::vector<std::vector<int64_t>> RolloutSchedule::MicroBatchesOf(int64_t step) const {
  const int64_t rollout = RolloutOf(step);
  const std::vector<int64_t> groups =
      Order(per_rollout_, options_.shuffle, data::EpochGenerator(options_.seed ^ kGroupStream, rollout));
  std::vector<int64_t> order;
  for (const int64_t group : groups) {
    for (int64_t i = 0; i < options_.group_size; ++i) order.push_back(group * options_.group_size + i);
  }
  const int64_t window = (step - FirstStepOf(rollout)) % windows_;
  auto at = order.begin() + window * options_.micro_batch_size * options_.accumulation;
  std::vector<std::vector<int64_t>> batches;
  for (int64_t i = 0; i < options_.accumulation; ++i, at += options_.micro_batch_size) {
    batches.emplace_back(at, at + options_.micro_batch_size);
  }
  return batches;
}

}  // namespace finetuned::grpo
