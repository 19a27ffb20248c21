#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/data/dataset.h"
#include "engine/data/row_file.h"
#include "engine/data/row_hash.h"
#include "engine/data/row_pipeline.h"

namespace finetuned::data {
namespace {

// Lines are read in blocks by one thread and worked on by all: bounds what is held besides the
// result.
constexpr size_t kBlockLines = 2048;
constexpr size_t kBlockBytes = 16 << 20;
constexpr size_t kMaxTruncatedLines = 100;

struct Block {
  std::vector<Line> lines;
  std::vector<std::string> texts;  // what lines[i].text points to
};

// What is kept of one line.
struct Outcome {
  absl::Status status;
  int64_t line = 0;
  std::vector<TokenizedRow> rows;
  absl::uint128 hash = 0;
  bool truncated = false;
  std::string drop_reason, drop_message;
};

TokenizedRow TakeRow(Document* document, int64_t line) {
  TokenizedRow row;
  row.line = line;
  row.desirable = document->desirable;
  row.input_ids.reserve(document->tokens.tokens.size());
  for (const text::Token& token : document->tokens.tokens) row.input_ids.push_back(token.id);
  row.trained = std::move(document->tokens.trained);
  row.cut = std::move(document->tokens.cut);
  return row;
}

Outcome ProcessLine(const RowPipeline& pipeline, const Line& line) {
  Outcome out;
  out.line = line.number;
  absl::StatusOr<ProcessedRow> done = pipeline.Process(line);
  if (!done.ok()) {
    out.status = done.status();
    return out;
  }
  out.hash = done->hash;
  for (Document& document : done->documents) {
    out.truncated |= document.tokens.truncated;
    if (out.drop_reason.empty()) {  // one answer without targets drops the row
      out.drop_reason = std::move(document.tokens.drop_reason);
      out.drop_message = std::move(document.tokens.drop_message);
    }
  }
  if (!out.drop_reason.empty()) return out;
  for (Document& document : done->documents) out.rows.push_back(TakeRow(&document, line.number));
  return out;
}

std::vector<Outcome> ProcessBlock(const RowPipeline& pipeline, const Block& block, int threads) {
  std::vector<Outcome> outcomes(block.lines.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < block.lines.size(); i = next++) {
      outcomes[i] = ProcessLine(pipeline, block.lines[i]);
    }
  };
  const size_t helpers = std::min(static_cast<size_t>(std::max(threads, 1)), block.lines.size());
  std::vector<std::thread> pool;
  for (size_t i = 1; i < helpers; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  return outcomes;
}

// Gathers the rows in file order.
class Collector {
 public:
  explicit Collector(int max_warnings) : max_warnings_(max_warnings) {}

  void Warn(RowError warning) {
    if (static_cast<int>(dataset_.warnings.size()) < max_warnings_) {
      dataset_.warnings.push_back(std::move(warning));
    }
  }

  void Take(Outcome outcome) {
    DatasetStats& stats = dataset_.stats;
    if (!seen_.insert(outcome.hash).second) ++stats.duplicate_rows;
    if (outcome.truncated) {
      ++stats.truncated_rows;
      if (stats.truncated_row_lines.size() < kMaxTruncatedLines) {
        stats.truncated_row_lines.push_back(outcome.line);
      }
    }
    if (!outcome.drop_reason.empty()) {
      ++stats.dropped_rows;
      ++stats.dropped_by_reason[outcome.drop_reason];
      Warn({outcome.line, "", outcome.drop_reason,
            absl::StrCat(outcome.drop_message, "; the row is left out")});
      return;
    }
    ++stats.rows;
    for (TokenizedRow& row : outcome.rows) {
      stats.tokens += static_cast<int64_t>(row.input_ids.size());
      stats.trained_tokens += std::count(row.trained.begin() + 1, row.trained.end(), 1);
      dataset_.rows.push_back(std::move(row));
    }
  }

  TokenizedDataset Finish() {
    DatasetStats& stats = dataset_.stats;
    std::vector<int64_t> lengths;
    for (const TokenizedRow& row : dataset_.rows) {
      lengths.push_back(static_cast<int64_t>(row.input_ids.size()));
    }
    std::sort(lengths.begin(), lengths.end());
    if (lengths.empty()) return std::move(dataset_);
    // Nearest rank: the smallest length that at least this share of the rows does not exceed.
    const auto percentile = [&](size_t percent) {
      return lengths[(lengths.size() * percent + 99) / 100 - 1];
    };
    stats.max_tokens = lengths.back();
    stats.p50_tokens = percentile(50);
    stats.p95_tokens = percentile(95);
    for (int64_t length : lengths) {
      size_t bucket = 0;
      while ((int64_t{1} << bucket) < length) ++bucket;
      if (stats.length_histogram.size() <= bucket) stats.length_histogram.resize(bucket + 1);
      ++stats.length_histogram[bucket];
    }
    return std::move(dataset_);
  }

 private:
  const int max_warnings_;
  TokenizedDataset dataset_;
  RowHashSet seen_;
};

// Reads the next block; an empty one at the end of the file.
absl::StatusOr<Block> ReadBlock(RowFile* file) {
  Block block;
  block.texts.reserve(kBlockLines);  // never grows: lines point into it
  size_t bytes = 0;
  Line line;
  while (block.lines.size() < kBlockLines && bytes < kBlockBytes) {
    absl::StatusOr<bool> more = file->Next(&line);
    if (!more.ok()) return more.status();
    if (!*more) break;
    block.texts.emplace_back(line.text);
    line.text = block.texts.back();
    bytes += line.text.size();
    block.lines.push_back(line);
  }
  return block;
}

std::string DropSummary(const DatasetStats& stats) {
  std::string summary;
  for (const auto& [reason, count] : stats.dropped_by_reason) {
    absl::StrAppend(&summary, summary.empty() ? "" : ", ", count, " ", reason);
  }
  return summary;
}

}  // namespace

absl::StatusOr<TokenizedDataset> TokenizeFile(const std::string& path,
                                              const text::Tokenizer& tokenizer,
                                              const std::string& model_chat_template,
                                              const TokenizeOptions& options, int threads) {
  auto file = RowFile::Open(path, options.limits, /*hash=*/false);
  if (!file.ok()) return file.status();
  RowPipeline pipeline(path, tokenizer, model_chat_template, options);
  Collector collector(options.limits.max_errors);
  while (true) {
    absl::StatusOr<Block> block = ReadBlock(file->get());
    if (!block.ok()) return block.status();
    if (block->lines.empty()) break;
    if (!pipeline.started()) {
      if (absl::Status status = pipeline.Start(block->lines.front()); !status.ok()) return status;
      if (pipeline.warning()) collector.Warn(*pipeline.warning());
    }
    for (Outcome& outcome : ProcessBlock(pipeline, *block, threads)) {
      if (!outcome.status.ok()) return outcome.status;
      collector.Take(std::move(outcome));
    }
  }
  if ((*file)->file_error()) return pipeline.ErrorAt(*(*file)->file_error());
  TokenizedDataset dataset = collector.Finish();
  if (dataset.rows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": no row has a token to train on within max_seq_length ",
                     options.max_seq_length, " (", DropSummary(dataset.stats), "); first: line ",
                     dataset.warnings.back().line, ": ", dataset.warnings.back().message));
  }
  return dataset;
}

}  // namespace finetuned::data
