#pragma once

#include <cstdint>
#include <vector>

#include "engine/data/dataset.h"

namespace finetuned::data {

// A micro-batch without padding: documents one after another, told apart by cu_seqlens.
struct PackedBatch {
  std::vector<int32_t> input_ids;     // [T]
  std::vector<int32_t> labels;        // [T] already shifted: labels[t] is the target of position t, or
                                      // -100; the last position of each document is -100
  std::vector<int32_t> position_ids;  // [T] restarts at 0 for each document
  std::vector<int32_t> cu_seqlens;    // [documents + 1], cu_seqlens[0] = 0
  int32_t max_seqlen = 0;             // longest document
  int64_t num_targets = 0;            // labels that are not -100
};

enum class Packing {
  kNone,      // micro_batch_size documents a batch, as TRL's padding-free collator
  kBestFit,   // bins of max_seq_length filled best-fit decreasing; micro_batch_size bins a batch
};

struct BatchPlanOptions {
  Packing packing = Packing::kNone;
  int64_t max_seq_length = 1024;
  int64_t micro_batch_size = 1;              // documents (kNone) or bins (kBestFit) in a micro-batch
  int64_t gradient_accumulation_steps = 1;
  bool shuffle = true;
  bool drop_last = false;
  uint64_t seed = 42;
};

// The order of all micro-batches of one epoch. A pure function of (row lengths, options, epoch): a
// resumed run rebuilds it and goes on at its cursor.
class BatchPlan {
 public:
  BatchPlan(const std::vector<TokenizedRow>& rows, const BatchPlanOptions& options, int64_t epoch);

  int64_t micro_batches() const { return static_cast<int64_t>(row_indices_.size()); }
  // Optimizer steps in this epoch: ceil(micro_batches / gradient_accumulation_steps).
  int64_t optimizer_steps() const;
  PackedBatch Build(int64_t micro_batch) const;
  // Rows in micro-batch order; for tests and for the record in checkpoints.
  const std::vector<std::vector<int64_t>>& row_indices() const { return row_indices_; }
  // Index of the micro-batch with the most tokens: what the memory probe runs.
  int64_t LargestMicroBatch() const;

 private:
  const std::vector<TokenizedRow>* rows_;
  BatchPlanOptions options_;
  std::vector<std::vector<int64_t>> row_indices_;
};

}  // namespace finetuned::data
