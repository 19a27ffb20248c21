#include "engine/plan/fall_back.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/plan/auto_settings.h"

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
  const std::string before = CheckpointingName(from.input), after = CheckpointingName(to.input);
  if (before != after) changes.push_back(absl::StrCat("activation_checkpointing ", before, " -> ", after));
  if (from.input.standing_layers != to.input.standing_layers) {
    changes.push_back(absl::StrCat("standing_layers ", from.input.standing_layers, " -> ", to.input.standing_layers));
  }
  if (!from.input.activation_offload && to.input.activation_offload) changes.emplace_back("activation_offload on");
  if (from.input.micro_batch_size != to.input.micro_batch_size) {
    changes.push_back(absl::StrCat("micro_batch_size ", from.input.micro_batch_size, " -> ", to.input.micro_batch_size,
                                   " with gradient_accumulation_steps ", from.accumulation, " -> ", to.accumulation));
  }
  return absl::StrJoin(changes, ", ");
}

bool RecomputesAll(const PlanInput& in) {
  return in.activation_checkpointing && in.keep_all_layers == 0 && in.keep_attention_layers == 0 && in.piece_rows == 0;
}

// Recompute that keeps as many whole layers as fit, less than before; none when that is not known.
void Recompute(PlanInput* in, int64_t most) {
  const int64_t kept = in->activation_checkpointing ? in->keep_all_layers : in->model.num_hidden_layers;
  in->activation_checkpointing = true;
  in->keep_attention_layers = in->piece_rows = 0;
  int64_t fits = 0, above = most > 0 ? kept : 1;
  while (above - fits > 1) {
    in->keep_all_layers = (fits + above) / 2;
    (PlanMemory(*in).total() <= most ? fits : above) = in->keep_all_layers;
  }
  in->keep_all_layers = fits;
}

}  // namespace

std::optional<FallBack> NextPlan(const PlanInput& input, int64_t accumulation, int64_t available_bytes,
                                 int64_t host_bytes) {
  const FallBack from = {input, accumulation, ""};
  FallBack to = from;
  // What did not fit is not tried again.
  const int64_t most = available_bytes > 0 ? std::min(available_bytes, PlanMemory(input).total() - 1) : 0;
  for (;;) {
    PlanInput offloaded = to.input;
    offloaded.activation_offload = true;
    if (to.input.standing_layers > 0) {
      to.input.standing_layers = 0;
    } else if (!RecomputesAll(to.input)) {
      Recompute(&to.input, most);
    } else if (to.input.on_gpu && !to.input.activation_offload && PlanHostMemory(offloaded) <= host_bytes) {
      to.input = offloaded;
    } else if (const int64_t smaller = SmallerMicroBatch(to.input); smaller > 0) {
      to.accumulation *= to.input.micro_batch_size / smaller;
      to.input.micro_batch_size = smaller;
    } else {
      return std::nullopt;
    }
    if (most > 0 && PlanMemory(to.input).total() > most) continue;
    to.changes = Describe(from, to);
    return to;
  }
}

}  // namespace finetuned::plan
