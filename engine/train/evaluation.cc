#include "engine/train/evaluation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "engine/data/packing.h"
#include "engine/model/batch.h"

namespace finetuned::train {

std::map<std::string, double> EvaluateLoss(model::Decoder* decoder,
                                           const data::TokenizedDataset& dataset,
                                           const job::ScheduleOptions& schedule,
                                           const at::Device& device) {
  const auto start = std::chrono::steady_clock::now();
  data::BatchPlanOptions options;
  options.packing = schedule.packing ? data::Packing::kBestFit : data::Packing::kNone;
  options.max_seq_length = schedule.max_seq_length;
  options.micro_batch_size = schedule.micro_batch_size;
  options.shuffle = false;
  const data::BatchPlan plan(dataset.rows, options, 0);
  at::Tensor sums =
      at::zeros({model::kLossSums}, at::TensorOptions().device(device).dtype(at::kDouble));
  int64_t targets = 0;
  for (int64_t i = 0; i < plan.micro_batches(); ++i) {
    const data::PackedBatch batch = plan.Build(i);
    decoder->Evaluate(model::Upload(batch, device), sums);
    targets += batch.num_targets;
  }
  const at::Tensor host = sums.to(at::kCPU);
  const double* values = host.const_data_ptr<double>();
  const double n = static_cast<double>(std::max<int64_t>(1, targets));
  return {{"eval_loss", values[0] / n},
          {"eval_entropy", values[1] / n},
          {"eval_mean_token_accuracy", values[2] / n},
          {"eval_tokens", static_cast<double>(targets)},
          {"eval_runtime",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}};
}

}  // namespace finetuned::train
