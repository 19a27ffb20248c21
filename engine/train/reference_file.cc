#include "engine/train/reference_file.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/format/sha256.h"
#include "engine/train/files.h"

namespace finetuned::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kFormat[] = "finetuned.reference";
constexpr int kVersion = 1;

// Rows that share a micro-batch change roundings, so its size counts, too: what is read is what would be computed.
std::string Key(const MethodInputs& inputs, const data::TokenizedDataset& dataset) {
  const job::TrainSpec& s = *inputs.spec;
  std::string text = absl::StrCat(
      s.method, " ", inputs.reference_fingerprint, " ", s.base_quantization, " ", s.double_quant, " ", s.int8_threshold,
      " ", absl::StrJoin(s.skip_modules, ","), " ", s.lm_head_quantization, " ", s.compute_dtype, " ", s.matmul_precision,
      " ", inputs.device.str(), " ", s.deterministic, " ", s.schedule.micro_batch_size, " ", s.dpo.ld_alpha, "\n");
  for (const data::TokenizedRow& row : dataset.rows) {
    absl::StrAppend(&text, row.input_ids.size(), ":");
    text.append(reinterpret_cast<const char*>(row.input_ids.data()),
                row.input_ids.size() * sizeof(int32_t));
    text.append(row.trained.begin(), row.trained.end());
  }
  return format::Sha256Hex(text);
}

void RemoveOldest(const std::string& folder) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    files.emplace_back(entry.last_write_time(error), entry.path());
  }
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kReferenceFilesKept < files.size(); ++i) fs::remove(files[i].second, error);
}

}  // namespace

ReferenceFile::ReferenceFile(const MethodInputs& inputs, const data::TokenizedDataset& dataset)
    : folder_(inputs.spec->reference_dir.empty() ? inputs.spec->state_dir + "/reference" : inputs.spec->reference_dir),
      path_(absl::StrCat(folder_, "/", Key(inputs, dataset), ".json")) {}

std::optional<std::vector<double>> ReferenceFile::Read(size_t rows) const {
  const auto text = ReadFile(path_);
  if (!text.ok()) return std::nullopt;
  const json stored = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!stored.is_object() || stored.value("format", json()) != kFormat || stored.value("version", json()) != kVersion) {
    return std::nullopt;
  }
  const json values = stored.value("log_probs", json());
  if (!values.is_array() || values.size() != rows) return std::nullopt;
  std::vector<double> out;
  for (const json& value : values) {
    if (!value.is_number()) return std::nullopt;
    out.push_back(value.get<double>());
  }
  std::error_code error;
  fs::last_write_time(path_, fs::file_time_type::clock::now(), error);
  return out;
}

absl::Status ReferenceFile::Write(const std::vector<double>& log_probs) const {
  const json content = {{"format", kFormat}, {"version", kVersion}, {"log_probs", log_probs}};
  const absl::Status status = WriteFileDurably(path_, content.dump() + "\n");
  if (status.ok()) RemoveOldest(folder_);
  return status;
}

}  // namespace finetuned::train
