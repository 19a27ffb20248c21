#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/train/method.h"

// The evidence when a step's loss or gradients are not finite.
namespace finetuned::train {

// In the run's state directory: {"step", "loss", "grad_norm", "rows": [{"line", "input_ids", "labels"}]} of the last
// step that was skipped.
inline constexpr char kNonFiniteFile[] = "non_finite_batch.json";

// Lines of the dataset that the window was made of, ascending, each once.
std::vector<int64_t> LinesOf(const Window& window, const std::vector<data::TokenizedRow>& rows);

// Writes kNonFiniteFile; what cannot be written is left out, the step's fate does not hang on it.
void SaveBatch(const std::string& state_dir, const Window& window, const std::vector<data::TokenizedRow>& rows,
               double loss, double grad_norm);

}  // namespace finetuned::train
