#include "engine/train/model_check.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <new>

#include "absl/strings/str_cat.h"
#include "engine/data/packing.h"
#include "engine/lora/peft_files.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/decoder.h"
#include "engine/train/base_model_cache.h"
#include "engine/train/device.h"

namespace finetuned::train {
namespace {

// Prose, numbers and code, about two hundred tokens: enough to tell a good export from a broken one.
constexpr const char* kSentences[] = {
    "The river rose in the night, and by morning the bridge to the old town was closed to everything but bicycles.",
    "To make the dough, mix 500 grams of flour with 325 grams of water, 10 grams of salt and 3 grams of yeast.",
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n",
    "In 1869 Mendeleev arranged the 63 known elements by atomic weight and left gaps for those still to be found.",
    "Question: If a train travels 120 kilometres in an hour and a half, how fast is it? Answer: 80 kilometres per hour.",
    "She had not expected a letter, least of all from him; she read it twice, folded it and put it back.",
};

constexpr int64_t kWholeRows = int64_t{1} << 40;  // no row is that long: Windows cuts, not the tokenization

// How a training job that keeps its base like this would load and place it.
job::TrainSpec PlacementOf(const ModelUnderTest& model, const job::ToolSpec& spec) {
  job::TrainSpec run;
  run.device = spec.device;
  run.compute_dtype = spec.compute_dtype;
  run.cpu_threads = spec.cpu_threads;
  run.matmul_precision = model.matmul_precision;
  run.base_quantization = model.base;
  run.double_quant = spec.double_quant;
  run.skip_modules = spec.skip_modules;
  if (model.base == "int8") run.int8_threshold = spec.int8_threshold;
  if (model.base != "none") run.lm_head_quantization = spec.lm_head_quantization;
  return run;
}

// The adapter to measure with; without one, an adapter that adds nothing.
absl::StatusOr<std::unique_ptr<lora::Adapter>> LoadAdapter(const std::string& directory, const model::BaseModel& base) {
  if (!directory.empty()) return lora::LoadPeftFolder(directory, base.config, base.options.device, base.options.dtype);
  lora::Options options;
  options.rank = 1;
  options.targets = {lora::Target::kQ};
  return std::make_unique<lora::Adapter>(base.config, options, base.options.device, base.options.dtype);
}

absl::StatusOr<Scores> Score(const ModelUnderTest& model, const job::ToolSpec& spec,
                             const std::vector<data::TokenizedRow>& rows, int64_t kept,
                             const std::atomic<bool>& cancel) {
  const job::TrainSpec placement = PlacementOf(model, spec);
  ConfigureLibrary(placement);
  const auto target = ChooseTarget(placement);
  if (!target.ok()) return target.status();
  if (absl::Status s = CheckPrecision(placement, *target); !s.ok()) return s;
  const auto base = model::LoadBaseModel(*model.source, model.path, LoadOptionsOf(placement, *target));
  if (!base.ok()) return base.status();
  const auto adapter = LoadAdapter(model.adapter_dir, **base);
  if (!adapter.ok()) return adapter.status();
  model::Decoder decoder(**base, **adapter, {});
  const auto start = std::chrono::steady_clock::now();
  at::Tensor sums = at::zeros({model::kLossSums}, at::TensorOptions().device(target->device).dtype(at::kDouble));
  Scores scores;
  scores.base_bytes = (*base)->bytes();
  const int64_t vocabulary = (*base)->config.vocab_size;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (cancel) return absl::CancelledError("cancelled");
    const data::PackedBatch batch = data::Pack(rows, {static_cast<int64_t>(i)});
    const model::DeviceBatch uploaded = model::Upload(batch, target->device);
    decoder.Evaluate(uploaded, sums);
    scores.tokens += batch.num_targets;
    const int64_t have = static_cast<int64_t>(scores.logits.size()) / vocabulary;
    if (have >= kept) continue;
    const at::Tensor logits = decoder.Logits(uploaded).to(at::kCPU, at::kFloat).contiguous();
    const int64_t take = std::min(kept - have, logits.size(0));
    const float* data = logits.const_data_ptr<float>();
    scores.logits.insert(scores.logits.end(), data, data + take * vocabulary);
  }
  scores.loss = sums.to(at::kCPU).const_data_ptr<double>()[0] / static_cast<double>(std::max<int64_t>(1, scores.tokens));
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

absl::StatusOr<std::vector<data::TokenizedRow>> BuiltInRows(const text::Tokenizer& tokenizer) {
  std::vector<data::TokenizedRow> rows;
  for (const char* sentence : kSentences) {
    text::EncodeOptions options;
    options.add_special_tokens = true;
    const auto tokens = tokenizer.Encode(sentence, options);
    if (!tokens.ok()) return tokens.status();
    data::TokenizedRow row;
    for (const text::Token& token : *tokens) row.input_ids.push_back(token.id);
    row.trained.assign(row.input_ids.size(), 1);
    rows.push_back(std::move(row));
  }
  return rows;
}

// Rows longer than `length` become windows of that length, one after another, so that every token is measured. The
// first token of a window has nothing before it and is no target.
std::vector<data::TokenizedRow> Windows(std::vector<data::TokenizedRow> rows, int64_t length) {
  std::vector<data::TokenizedRow> windows;
  for (data::TokenizedRow& row : rows) {
    const int64_t size = static_cast<int64_t>(row.input_ids.size());
    for (int64_t begin = 0; begin < size; begin += length) {
      const int64_t end = std::min(size, begin + length);
      data::TokenizedRow window;
      window.line = row.line;
      window.input_ids.assign(row.input_ids.begin() + begin, row.input_ids.begin() + end);
      window.trained.assign(row.trained.begin() + begin, row.trained.begin() + end);
      if (std::find(window.trained.begin() + 1, window.trained.end(), 1) == window.trained.end()) continue;
      windows.push_back(std::move(window));
    }
  }
  return windows;
}

// At most so many tokens; the last row is cut.
void Limit(int64_t max_tokens, std::vector<data::TokenizedRow>* rows) {
  if (max_tokens == 0) return;
  size_t kept = 0;
  for (; kept < rows->size() && max_tokens > 1; ++kept) {
    data::TokenizedRow& row = (*rows)[kept];
    if (static_cast<int64_t>(row.input_ids.size()) > max_tokens) {
      row.input_ids.resize(max_tokens);
      row.trained.resize(max_tokens);
    }
    max_tokens -= static_cast<int64_t>(row.input_ids.size());
  }
  rows->resize(kept);
}

}  // namespace

double Scores::perplexity() const { return std::exp(loss); }

absl::StatusOr<Scores> ScoreModel(const ModelUnderTest& model, const job::ToolSpec& spec,
                                  const std::vector<data::TokenizedRow>& rows, int64_t kept,
                                  const std::atomic<bool>& cancel) {
  absl::StatusOr<Scores> scores = absl::InternalError("not run");
  try {
    c10::InferenceMode no_autograd;
    scores = Score(model, spec, rows, kept, cancel);
  } catch (const std::bad_alloc&) {
    scores = absl::ResourceExhaustedError("not enough host memory to run the model");
  } catch (const c10::Error& e) {
    const std::string what = e.what_without_backtrace(), line = what.substr(0, what.find('\n'));
    scores = IsOutOfMemory(e) ? absl::ResourceExhaustedError(absl::StrCat("not enough device memory to run the model (", line, ")"))
                              : absl::InternalError(line);
  } catch (const std::exception& e) {
    scores = absl::InternalError(e.what());
  }
  const auto target = ChooseTarget(PlacementOf(model, spec));
  if (target.ok()) ReleaseCachedMemory(target->device);
  return scores;
}

absl::StatusOr<std::vector<data::TokenizedRow>> RowsToScore(const job::ToolSpec& spec,
                                                            const format::ModelSource& source) {
  const auto tokenizer = source.LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::vector<data::TokenizedRow>> rows;
  if (spec.dataset_path.empty()) {
    rows = BuiltInRows(**tokenizer);
  } else {
    data::TokenizeOptions options;
    options.max_seq_length = kWholeRows;
    auto dataset = data::TokenizeFile(spec.dataset_path, **tokenizer, source.chat_template(), options);
    if (!dataset.ok()) return dataset.status();
    rows = std::move(dataset->rows);
  }
  if (!rows.ok()) return rows;
  *rows = Windows(*std::move(rows), std::min(spec.max_seq_length, source.config().max_position_embeddings));
  Limit(spec.max_tokens, &*rows);
  if (rows->empty()) return absl::InvalidArgumentError("no row has a token to measure");
  return rows;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

}  // namespace finetuned::train
