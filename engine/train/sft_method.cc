#include "engine/train/sft_method.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "engine/model/batch.h"

namespace finetuned::train {

at::Tensor SftMethod::AccumulateGradients(const Window& window) {
  int64_t targets = 0;
  for (const data::PackedBatch& batch : window.batches) targets += batch.num_targets;
  const double scale = targets > 0 ? 1.0 / static_cast<double>(targets) : 0.0;
  const auto options = at::TensorOptions().device(in_.device);
  const at::Tensor grad_scale = at::full({1}, scale, options.dtype(at::kFloat));
  at::Tensor totals = at::zeros({model::kLossSums}, options.dtype(at::kDouble));
  at::Tensor sums = at::zeros_like(totals);
  uint64_t pass = window.first_pass;
  for (size_t i = 0; i < window.batches.size(); ++i, ++pass) {
    if (!window.share.Holds(static_cast<int64_t>(i))) continue;
    const data::PackedBatch& batch = window.batches[i];
    in_.doing(DescribeBatch(window, batch));
    sums.zero_();
    in_.decoder->ForwardBackward(model::Upload(batch, in_.device), grad_scale, in_.spec->seed,
                                 pass, sums);
    totals.narrow(0, 0, 1).add_(sums.narrow(0, 0, 1), scale);
    if (batch.num_targets > 0) {
      totals.narrow(0, 1, 2).add_(sums.narrow(0, 1, 2),
                                  1.0 / static_cast<double>(batch.num_targets));
    }
  }
  return totals;
}

std::map<std::string, double> SftMethod::StepValues(const Window& window,
                                                    const double* measured) const {
  const int64_t with_targets =
      std::count_if(window.batches.begin(), window.batches.end(),
                    [](const auto& batch) { return batch.num_targets > 0; });
  const double batches = static_cast<double>(std::max<int64_t>(1, with_targets));
  return {{"loss", measured[0]},
          {"entropy", measured[1] / batches},
          {"mean_token_accuracy", measured[2] / batches}};
}

std::map<std::string, double> SftMethod::Evaluate(int64_t) {
  const auto start = std::chrono::steady_clock::now();
  const data::BatchPlan plan(in_.eval->rows, EvalBatchOptions(*in_.spec), 0);
  at::Tensor sums =
      at::zeros({model::kLossSums}, at::TensorOptions().device(in_.device).dtype(at::kDouble));
  int64_t targets = 0;
  for (int64_t i = 0; i < plan.micro_batches(); ++i) {
    const data::PackedBatch batch = plan.Build(i);
    targets += batch.num_targets;
    if (ShareOf(in_.world).Holds(i)) in_.decoder->Evaluate(model::Upload(batch, in_.device), sums);
  }
  SumOver(in_.world, sums);
  const at::Tensor host = sums.to(at::kCPU);
  const double* values = host.const_data_ptr<double>();
  const double n = static_cast<double>(std::max<int64_t>(1, targets));
  std::map<std::string, double> out = {{"eval_loss", values[0] / n},
                                       {"eval_entropy", values[1] / n},
                                       {"eval_mean_token_accuracy", values[2] / n}};
  AddEvalTotals(static_cast<double>(targets), start, &out);
  return out;
}

}  // namespace finetuned::train
