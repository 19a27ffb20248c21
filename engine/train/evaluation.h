#pragma once

#include <map>
#include <string>

#include "engine/data/dataset.h"
#include "engine/job/train_spec.h"
#include "engine/model/decoder.h"

namespace finetuned::train {

// Held-out loss without label smoothing, over all targets of the set: eval_loss, eval_entropy,
// eval_mean_token_accuracy, eval_tokens (targets), eval_runtime (seconds). Uses no more memory than a
// training step with the same micro-batches.
std::map<std::string, double> EvaluateLoss(model::Decoder* decoder,
                                           const data::TokenizedDataset& dataset,
                                           const job::ScheduleOptions& schedule,
                                           const at::Device& device);

}  // namespace finetuned::train
