#pragma once

#include <cstdint>
#include <vector>

#include "engine/data/dataset.h"

namespace finetuned::data {

// Rows [start, start + length) of a batch, computed for one document, that come before those of another.
struct SharedPrefix {
  int32_t start = 0, length = 0;
};

// A micro-batch without padding: documents one after another, told apart by cu_seqlens. Documents with the same prompt may
// have it once: the first has all its tokens, the others those from the prompt's last token on, whose target is their own.
struct PackedBatch {
  std::vector<int32_t> input_ids;  // [T]
  std::vector<int32_t> labels;     // [T] already shifted: labels[t] is the target of position t, or
                                   // -100; the last position of each document is -100
  std::vector<int32_t> position_ids;  // [T] restarts for each document, at 0 or after its shared prefix
  std::vector<int32_t> cu_seqlens;    // [documents + 1], cu_seqlens[0] = 0
  int32_t max_seqlen = 0;             // longest document, without its shared prefix
  std::vector<SharedPrefix> prefixes; // [documents]; empty: nothing is shared
  int64_t num_targets = 0;            // labels that are not -100
  std::vector<int64_t> rows;          // [documents] index of each document in the rows of the plan

  int64_t shared_tokens() const;      // that are not computed a second time
};

enum class Packing {
  kNone,     // micro_batch_size documents a batch, as TRL's padding-free collator
  kBestFit,  // bins of max_seq_length filled best-fit decreasing; micro_batch_size bins a batch
};

struct BatchPlanOptions {
  Packing packing = Packing::kNone;
  // kNone: rows that belong together and stay in one micro-batch, in their order: 2 for chosen and rejected. They have
  // the same prompt.
  int64_t rows_per_unit = 1;
  int64_t max_seq_length = 1024;
  int64_t micro_batch_size = 1;  // units (kNone) or bins (kBestFit) in a micro-batch
  int64_t gradient_accumulation_steps = 1;
  bool shuffle = true;  // false: file order, or the order in which bins were opened
  bool drop_last =
      false;  // leave out a last micro-batch with fewer documents or bins than the others
  uint64_t seed = 42;
};

// Bins of items whose lengths sum to at most `capacity`: items by falling length (equal ones in
// file order), each into the bin with the least room that still holds it, else into a new one. The
// bins of TRL's "bfd" packing, but over the whole file where TRL packs blocks of 1000 rows. Items
// of length 0 are left out; an item longer than `capacity` gets a bin of its own.
std::vector<std::vector<int64_t>> BestFitDecreasing(const std::vector<int64_t>& lengths,
                                                    int64_t capacity);

// The documents `rows[indices]` one after another.
PackedBatch Pack(const std::vector<TokenizedRow>& rows, const std::vector<int64_t>& indices);

// The documents one after another. leaders[i] <= i: an earlier document with the same prompt, which has it for this one,
// too, or i itself; the tokens that the two share before the first that trains, but the last, are not repeated. Nothing is
// shared where that saves less than one token in 16: copying keys and other kernels of attention cost something, too.
// PackedBatch::rows stays empty.
PackedBatch PackSharing(const std::vector<const TokenizedRow*>& documents, const std::vector<int64_t>& leaders);

// The order of all micro-batches of one epoch. A pure function of (row lengths, options, epoch): a
// resumed run rebuilds it and goes on at its cursor. Rows (kNone) or bins (kBestFit) are shuffled
// by the generator of shuffle.h, the same in every build; the bins themselves are the same each
// epoch.
class BatchPlan {
 public:
  // `rows` must outlive the plan. Rows without tokens are left out.
  BatchPlan(const std::vector<TokenizedRow>& rows, const BatchPlanOptions& options, int64_t epoch);

  int64_t micro_batches() const { return static_cast<int64_t>(row_indices_.size()); }
  // Optimizer steps in this epoch: ceil(micro_batches / gradient_accumulation_steps).
  int64_t optimizer_steps() const;
  // Rows of a unit share their prompt.
  PackedBatch Build(int64_t micro_batch) const;
  // Rows in micro-batch order; for tests and for the record in checkpoints.
  const std::vector<std::vector<int64_t>>& row_indices() const { return row_indices_; }
  // Index of the micro-batch with the most tokens: what the memory probe runs.
  int64_t LargestMicroBatch() const;

 private:
  // The documents of a micro-batch, and who has the prompt of each.
  std::vector<const TokenizedRow*> Documents(int64_t micro_batch) const;
  std::vector<int64_t> Leaders(size_t documents) const;

  const std::vector<TokenizedRow>* rows_;
  BatchPlanOptions options_;
  std::vector<std::vector<int64_t>> row_indices_;
};

}  // namespace finetuned::data
