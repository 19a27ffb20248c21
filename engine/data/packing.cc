#include "engine/data/packing.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <iterator>
#include <map>
#include <numeric>
#include <utility>

#include "engine/data/shuffle.h"

namespace finetuned::data {
namespace {

constexpr int32_t kIgnored = -100;
constexpr int64_t kLeastSavedShare = 16;  // one token in so many

// Tokens at the front of both before the last that precedes one that trains.
int32_t SharedLength(const TokenizedRow& a, const TokenizedRow& b) {
  const size_t longest = std::min(a.input_ids.size(), b.input_ids.size());
  size_t n = 0;
  while (n < longest && a.input_ids[n] == b.input_ids[n] && !a.trained[n] && !b.trained[n]) ++n;
  return static_cast<int32_t>(n) - (n > 0 ? 1 : 0);
}

// Tokens that each document does not repeat; see PackSharing.
std::vector<int32_t> SharedLengths(const std::vector<const TokenizedRow*>& documents,
                                   const std::vector<int64_t>& leaders) {
  std::vector<int32_t> shared(documents.size(), 0);
  int64_t tokens = 0, saved = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    const size_t leader = static_cast<size_t>(leaders[i]);
    tokens += static_cast<int64_t>(documents[i]->input_ids.size());
    if (leader != i) saved += shared[i] = SharedLength(*documents[leader], *documents[i]);
  }
  if (saved * kLeastSavedShare < tokens) std::fill(shared.begin(), shared.end(), 0);
  return shared;
}

// Appends a document without its first prefix.length tokens.
void AddDocument(const TokenizedRow& row, SharedPrefix prefix, PackedBatch* batch) {
  const size_t length = row.input_ids.size();
  for (size_t t = static_cast<size_t>(prefix.length); t < length; ++t) {
    const bool target = t + 1 < length && row.trained[t + 1];
    batch->input_ids.push_back(row.input_ids[t]);
    batch->labels.push_back(target ? row.input_ids[t + 1] : kIgnored);
    batch->position_ids.push_back(static_cast<int32_t>(t));
    batch->num_targets += target;
  }
  batch->cu_seqlens.push_back(static_cast<int32_t>(batch->input_ids.size()));
  batch->max_seqlen = std::max(batch->max_seqlen, static_cast<int32_t>(length) - prefix.length);
}

}  // namespace

std::vector<std::vector<int64_t>> BestFitDecreasing(const std::vector<int64_t>& lengths,
                                                    int64_t capacity) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<int64_t>> bins;
  // Open bins by the room left in them; among equal ones the first to get there comes first.
  std::map<int64_t, std::deque<size_t>> bins_with_room;
  for (int64_t item : order) {
    if (lengths[item] == 0) continue;
    int64_t room = capacity;
    size_t bin = bins.size();
    const auto best = bins_with_room.lower_bound(lengths[item]);
    if (best == bins_with_room.end()) {
      bins.emplace_back();
    } else {
      room = best->first;
      bin = best->second.front();
      best->second.pop_front();
      if (best->second.empty()) bins_with_room.erase(best);
    }
    bins[bin].push_back(item);
    if (room > lengths[item]) bins_with_room[room - lengths[item]].push_back(bin);
  }
  return bins;
}

BatchPlan::BatchPlan(const std::vector<TokenizedRow>& rows, const BatchPlanOptions& options,
                     int64_t epoch)
    : rows_(&rows), options_(options) {
  std::vector<std::vector<int64_t>> units;  // what is shuffled: bins, or rows
  if (options.packing == Packing::kBestFit) {
    std::vector<int64_t> lengths;
    lengths.reserve(rows.size());
    for (const TokenizedRow& row : rows) {
      lengths.push_back(static_cast<int64_t>(row.input_ids.size()));
    }
    units = BestFitDecreasing(lengths, options.max_seq_length);
  } else {
    const size_t unit = static_cast<size_t>(std::max<int64_t>(options.rows_per_unit, 1));
    for (size_t i = 0; i + unit <= rows.size(); i += unit) {
      if (rows[i].input_ids.empty()) continue;
      units.emplace_back(unit);
      std::iota(units.back().begin(), units.back().end(), static_cast<int64_t>(i));
    }
  }
  if (options.shuffle) {
    SplitMix64 generator = EpochGenerator(options.seed, epoch);
    Shuffle(&generator, &units);
  }
  const size_t group = static_cast<size_t>(std::max<int64_t>(options.micro_batch_size, 1));
  for (size_t i = 0; i < units.size(); i += group) {
    if (options.drop_last && units.size() - i < group) break;
    std::vector<int64_t>& batch = row_indices_.emplace_back();
    for (size_t k = i; k < std::min(units.size(), i + group); ++k) {
      batch.insert(batch.end(), units[k].begin(), units[k].end());
    }
  }
}

int64_t BatchPlan::optimizer_steps() const {
  const int64_t window = std::max<int64_t>(options_.gradient_accumulation_steps, 1);
  return (micro_batches() + window - 1) / window;
}

PackedBatch Pack(const std::vector<TokenizedRow>& rows, const std::vector<int64_t>& indices) {
  PackedBatch batch;
  batch.rows = indices;
  batch.cu_seqlens.push_back(0);
  for (int64_t index : indices) AddDocument(rows[static_cast<size_t>(index)], {}, &batch);
  return batch;
}

PackedBatch PackSharing(const std::vector<const TokenizedRow*>& documents, const std::vector<int64_t>& leaders) {
  const std::vector<int32_t> shared = SharedLengths(documents, leaders);
  PackedBatch batch;
  batch.cu_seqlens.push_back(0);
  for (size_t i = 0; i < documents.size(); ++i) {
    const SharedPrefix prefix = {shared[i] > 0 ? batch.cu_seqlens[static_cast<size_t>(leaders[i])] : 0, shared[i]};
    AddDocument(*documents[i], prefix, &batch);
    batch.prefixes.push_back(prefix);
  }
  if (batch.shared_tokens() == 0) batch.prefixes.clear();
  return batch;
}

int64_t PackedBatch::shared_tokens() const {
  int64_t sum = 0;
  for (const SharedPrefix& prefix : prefixes) sum += prefix.length;
  return sum;
}

std::vector<const TokenizedRow*> BatchPlan::Documents(int64_t micro_batch) const {
  std::vector<const TokenizedRow*> documents;
  for (int64_t index : row_indices_[static_cast<size_t>(micro_batch)]) {
    documents.push_back(&(*rows_)[static_cast<size_t>(index)]);
  }
  return documents;
}

std::vector<int64_t> BatchPlan::Leaders(size_t documents) const {
  const int64_t unit = options_.packing == Packing::kNone ? std::max<int64_t>(options_.rows_per_unit, 1) : 1;
  std::vector<int64_t> leaders(documents);
  for (int64_t i = 0; i < static_cast<int64_t>(documents); ++i) leaders[static_cast<size_t>(i)] = i / unit * unit;
  return leaders;
}

PackedBatch BatchPlan::Build(int64_t micro_batch) const {
  const std::vector<const TokenizedRow*> documents = Documents(micro_batch);
  PackedBatch batch = PackSharing(documents, Leaders(documents.size()));
  batch.rows = row_indices_[static_cast<size_t>(micro_batch)];
  return batch;
}

int64_t BatchPlan::LargestMicroBatch() const {
  int64_t largest = 0, most_tokens = 0;
  for (int64_t i = 0; i < micro_batches(); ++i) {
    const std::vector<const TokenizedRow*> documents = Documents(i);
    const std::vector<int32_t> shared = SharedLengths(documents, Leaders(documents.size()));
    int64_t tokens = 0;
    for (size_t k = 0; k < documents.size(); ++k) {
      tokens += static_cast<int64_t>(documents[k]->input_ids.size()) - shared[k];
    }
    if (tokens > most_tokens) {
      largest = i;
      most_tokens = tokens;
    }
  }
  return largest;
}

}  // namespace finetuned::data
