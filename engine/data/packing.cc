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
  for (int64_t index : indices) {
    const TokenizedRow& row = rows[static_cast<size_t>(index)];
    const size_t length = row.input_ids.size();
    batch.input_ids.insert(batch.input_ids.end(), row.input_ids.begin(), row.input_ids.end());
    for (size_t t = 0; t < length; ++t) {
      const bool target = t + 1 < length && row.trained[t + 1];
      batch.labels.push_back(target ? row.input_ids[t + 1] : kIgnored);
      batch.position_ids.push_back(static_cast<int32_t>(t));
      batch.num_targets += target;
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(length));
  }
  return batch;
}

PackedBatch BatchPlan::Build(int64_t micro_batch) const {
  return Pack(*rows_, row_indices_[static_cast<size_t>(micro_batch)]);
}

int64_t BatchPlan::LargestMicroBatch() const {
  int64_t largest = 0;
  size_t most_tokens = 0;
  for (size_t i = 0; i < row_indices_.size(); ++i) {
    size_t tokens = 0;
    for (int64_t index : row_indices_[i]) {
      tokens += (*rows_)[static_cast<size_t>(index)].input_ids.size();
    }
    if (tokens > most_tokens) {
      largest = static_cast<int64_t>(i);
      most_tokens = tokens;
    }
  }
  return largest;
}

}  // namespace finetuned::data
