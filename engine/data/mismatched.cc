#include "engine/data/mismatched.h"

#include <algorithm>

namespace finetuned::data {
namespace {

// The prompt of one row with the answer of another.
TokenizedRow Combine(const TokenizedRow& prompt, const TokenizedRow& answer,
                     int64_t max_seq_length) {
  const auto prompt_length = [](const TokenizedRow& row) {
    return std::find(row.trained.begin(), row.trained.end(), 1) - row.trained.begin();
  };
  TokenizedRow out;
  out.line = prompt.line;
  out.input_ids.assign(prompt.input_ids.begin(), prompt.input_ids.begin() + prompt_length(prompt));
  out.trained.assign(out.input_ids.size(), 0);
  out.input_ids.insert(out.input_ids.end(), answer.input_ids.begin() + prompt_length(answer),
                       answer.input_ids.end());
  out.input_ids.insert(out.input_ids.end(), answer.cut.begin(), answer.cut.end());
  out.input_ids.resize(std::min<size_t>(out.input_ids.size(), static_cast<size_t>(max_seq_length)));
  out.trained.resize(out.input_ids.size(), 1);
  return out;
}

// The row whose answer each document gets, by micro-batch.
std::vector<std::vector<int64_t>> Partners(int64_t rows, const std::vector<PackedBatch>& window) {
  std::vector<std::vector<int64_t>> partners;
  std::vector<size_t> single;
  for (const PackedBatch& batch : window) {
    if (batch.rows.size() == 1) single.push_back(partners.size());
    partners.push_back(batch.rows);
    std::rotate(partners.back().begin(), partners.back().end() - 1, partners.back().end());
  }
  for (size_t i = 0; i < single.size(); ++i) {
    const int64_t own = window[single[i]].rows[0];
    partners[single[i]][0] = single.size() == 1
                                 ? (own + rows - 1) % rows
                                 : window[single[(i + single.size() - 1) % single.size()]].rows[0];
  }
  return partners;
}

}  // namespace

std::vector<PackedBatch> MismatchedBatches(const std::vector<TokenizedRow>& rows,
                                           const std::vector<PackedBatch>& window,
                                           int64_t max_seq_length) {
  const auto partners = Partners(static_cast<int64_t>(rows.size()), window);
  std::vector<PackedBatch> out;
  for (size_t b = 0; b < window.size(); ++b) {
    std::vector<TokenizedRow> combined;
    std::vector<int64_t> order;
    for (size_t i = 0; i < partners[b].size(); ++i) {
      combined.push_back(Combine(rows[static_cast<size_t>(window[b].rows[i])],
                                 rows[static_cast<size_t>(partners[b][i])], max_seq_length));
      order.push_back(static_cast<int64_t>(i));
    }
    out.push_back(Pack(combined, order));
    out.back().rows = window[b].rows;
  }
  return out;
}

}  // namespace finetuned::data
