#include "engine/train/non_finite.h"

#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/train/files.h"

namespace finetuned::train {
namespace {

// JSON has no number for these.
nlohmann::json NumberOrName(double value) {
  if (std::isfinite(value)) return value;
  return absl::StrCat(value);
}

}  // namespace

std::vector<int64_t> LinesOf(const Window& window, const std::vector<data::TokenizedRow>& rows) {
  std::set<int64_t> lines;
  for (const data::PackedBatch& batch : window.batches) {
    for (const int64_t row : batch.rows) lines.insert(rows[row].line);
  }
  return {lines.begin(), lines.end()};
}

void SaveBatch(const std::string& state_dir, const Window& window, const std::vector<data::TokenizedRow>& rows,
               double loss, double grad_norm) {
  nlohmann::json saved = {{"step", window.step},
                          {"loss", NumberOrName(loss)},
                          {"grad_norm", NumberOrName(grad_norm)},
                          {"rows", nlohmann::json::array()}};
  for (const data::PackedBatch& batch : window.batches) {
    for (size_t i = 0; i < batch.rows.size(); ++i) {
      const int32_t from = batch.cu_seqlens[i], to = batch.cu_seqlens[i + 1];
      saved["rows"].push_back(
          {{"line", rows[batch.rows[i]].line},
           {"input_ids", std::vector<int32_t>(batch.input_ids.begin() + from, batch.input_ids.begin() + to)},
           {"labels", std::vector<int32_t>(batch.labels.begin() + from, batch.labels.begin() + to)}});
    }
  }
  WriteFileDurably(absl::StrCat(state_dir, "/", kNonFiniteFile), saved.dump() + "\n").IgnoreError();
}

}  // namespace finetuned::train
