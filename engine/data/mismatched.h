#pragma once

#include <cstdint>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/data/packing.h"

namespace finetuned::data {

// For each micro-batch of a window the same prompts, each with the answer of another row: what the
// KL estimate of KTO looks at. Answers move one document on: prompt i gets the answer of document i
// - 1 of its micro-batch, the first that of the last (as TRL, which does it once for blocks of the
// file). A micro-batch of one document takes part in a rotation over all such micro-batches of the
// window; where there is one, it takes the answer of the row before in the file. Sequences are cut
// to max_seq_length. Row indices are those of the prompts.
std::vector<PackedBatch> MismatchedBatches(const std::vector<TokenizedRow>& rows,
                                           const std::vector<PackedBatch>& window,
                                           int64_t max_seq_length);

}  // namespace finetuned::data
