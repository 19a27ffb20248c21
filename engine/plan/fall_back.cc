#include "engine/plan/fall_back.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::plan {
namespace {

// The largest divisor below n; 0 for 1.
int64_t NextDivisor(int64_t n) {
  for (int64_t d = n / 2; d >= 1; --d) {
    if (n % d == 0) return d;
  }
  return 0;
}

// KTO's baseline and GRPO's groups are those of a micro-batch: a smaller one is another loss.
int64_t SmallerMicroBatch(const PlanInput& in) {
  return in.method == Method::kSft || in.method == Method::kDpo ? NextDivisor(in.micro_batch_size) : 0;
}

std::string Describe(const FallBack& from, const FallBack& to) {
  std::vector<std::string> changes;
  if (!from.input.activation_checkpointing || from.input.keep_all_layers + from.input.keep_attention_layers > 0) {
    changes.emplace_back("activation_checkpointing on");
  }
  if (from.input.micro_batch_size != to.input.micro_batch_size) {
    changes.push_back(absl::StrCat("micro_batch_size ", from.input.micro_batch_size, " -> ", to.input.micro_batch_size,
                                   " with gradient_accumulation_steps ", from.accumulation, " -> ", to.accumulation));
  }
  return absl::StrJoin(changes, ", ");
}

}  // namespace

std::optional<FallBack> NextPlan(const PlanInput& input, int64_t accumulation, int64_t available_bytes) {
  const FallBack from = {input, accumulation, ""};
  FallBack to = from;
  for (;;) {
    if (!to.input.activation_checkpointing || to.input.keep_all_layers > 0 || to.input.keep_attention_layers > 0) {
      to.input.activation_checkpointing = true;
      to.input.keep_all_layers = to.input.keep_attention_layers = 0;
    } else if (const int64_t smaller = SmallerMicroBatch(to.input); smaller > 0) {
      to.accumulation *= to.input.micro_batch_size / smaller;
      to.input.micro_batch_size = smaller;
    } else {
      return std::nullopt;
    }
    if (available_bytes > 0 && PlanMemory(to.input).total() > available_bytes) continue;
    to.changes = Describe(from, to);
    return to;
  }
}

}  // namespace finetuned::plan
