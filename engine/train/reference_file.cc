#include "engine/train/reference_file.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/format/sha256.h"
#include "engine/train/files.h"

namespace finetuned::train {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "finetuned.reference";
constexpr int kVersion = 1;
constexpr char kFile[] = "/log_probs.json";

}  // namespace

std::string ReferenceKey(const MethodInputs& inputs, const data::TokenizedDataset& dataset) {
  const job::TrainSpec& spec = *inputs.spec;
  std::string text = absl::StrCat(inputs.reference_fingerprint, " ", spec.base_quantization,
                                  spec.lm_head_quantization == "none" ? "" : "+head", " ",
                                  spec.compute_dtype, " ", spec.dpo.ld_alpha, "\n");
  for (const data::TokenizedRow& row : dataset.rows) {
    absl::StrAppend(&text, row.input_ids.size(), ":");
    text.append(reinterpret_cast<const char*>(row.input_ids.data()),
                row.input_ids.size() * sizeof(int32_t));
    text.append(row.trained.begin(), row.trained.end());
  }
  return format::Sha256Hex(text);
}

ReferenceFile::ReferenceFile(std::string state_dir, const std::string& name, std::string key)
    : state_dir_(std::move(state_dir)),
      folder_(absl::StrCat("reference-", name)),
      key_(std::move(key)) {}

std::optional<std::vector<double>> ReferenceFile::Read(size_t rows) const {
  const auto text = ReadFile(absl::StrCat(state_dir_, "/", folder_, kFile));
  if (!text.ok()) return std::nullopt;
  const json stored = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!stored.is_object() || stored.value("format", json()) != kFormat ||
      stored.value("version", json()) != kVersion || stored.value("key", json()) != key_) {
    return std::nullopt;
  }
  const json values = stored.value("log_probs", json());
  if (!values.is_array() || values.size() != rows) return std::nullopt;
  std::vector<double> out;
  for (const json& value : values) {
    if (!value.is_number()) return std::nullopt;
    out.push_back(value.get<double>());
  }
  return out;
}

absl::Status ReferenceFile::Write(const std::vector<double>& log_probs) const {
  auto directory = NewDirectory::Create(state_dir_, folder_);
  if (!directory.ok()) return directory.status();
  const json content = {
      {"format", kFormat}, {"version", kVersion}, {"key", key_}, {"log_probs", log_probs}};
  absl::Status status = WriteFile(absl::StrCat((*directory)->path(), kFile), content.dump() + "\n");
  return status.ok() ? (*directory)->Commit().status() : status;
}

}  // namespace finetuned::train
