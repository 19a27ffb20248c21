#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/data/dataset.h"
#include "engine/format/model_source.h"
#include "engine/job/tool_spec.h"

// Perplexity and logits of stored models, for exports and evaluation jobs. Free of LibTorch.
namespace finetuned::train {

// A model as it is to be loaded.
struct ModelUnderTest {
  const format::ModelSource* source = nullptr;
  std::string path;
  std::string adapter_dir;               // PEFT folder; empty: the base alone
  std::string base = "none";             // base_quantization of train_spec.h
  std::string matmul_precision = "bf16";
};

struct Scores {
  double loss = 0;              // mean over the targets, natural logarithm
  int64_t tokens = 0;           // targets
  int64_t base_bytes = 0;       // of the loaded base
  double seconds = 0;           // of the passes
  std::vector<float> logits;    // of the first positions, row-major [rows, vocabulary]

  double perplexity() const;
};

// Loads the model on spec's device and runs `rows` through it, one row a pass; keeps logits of the first `kept` positions.
// CANCELLED; RESOURCE_EXHAUSTED when the device is too small; UNAVAILABLE or INVALID_ARGUMENT for the device; errors of
// LoadBaseModel, ReadPeftConfig and LoadPeftWeights.
absl::StatusOr<Scores> ScoreModel(const ModelUnderTest& model, const job::ToolSpec& spec,
                                  const std::vector<data::TokenizedRow>& rows, int64_t kept,
                                  const std::atomic<bool>& cancel);

// Rows to measure on: those of spec.dataset_path, or sentences that are built in, the ones longer than
// spec.max_seq_length in windows of it; at most spec.max_tokens tokens. INVALID_ARGUMENT for a dataset or a tokenizer
// that does not fit the model.
absl::StatusOr<std::vector<data::TokenizedRow>> RowsToScore(const job::ToolSpec& spec,
                                                            const format::ModelSource& source);

// Largest difference of two sets of logits of equal size.
double LargestDifference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace finetuned::train
