#include "engine/export/hf_folder_export.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/export/hf_texts.h"
#include "engine/format/mapped_file.h"
#include "engine/format/quantize.h"
#include "engine/format/safetensors_writer.h"

namespace finetuned::exports {
namespace {

using nlohmann::ordered_json;

struct Shard {
  std::vector<const format::TensorInfo*> tensors;
  int64_t bytes = 0;
};

// Tensors in order, as many in a shard as fit.
absl::StatusOr<std::vector<Shard>> Divide(const format::ModelSource& base, const HfFolderOptions& options) {
  std::vector<Shard> shards(1);
  for (const format::TensorInfo& tensor : base.tensors()) {
    const absl::StatusOr<int64_t> bytes = format::StorageBytes(options.dtype, tensor.shape);
    if (!bytes.ok()) return bytes.status();
    if (shards.back().bytes > 0 && shards.back().bytes + *bytes > options.max_shard_bytes) shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().bytes += *bytes;
  }
  return shards;
}

std::string ShardName(size_t i, size_t n) {
  return n == 1 ? "model.safetensors" : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, n);
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", format::DisplayName(path)));
}

absl::Status WriteIndex(const std::vector<Shard>& shards, int64_t total, const std::string& folder) {
  if (shards.size() == 1) return absl::OkStatus();
  ordered_json map = ordered_json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const format::TensorInfo* tensor : shards[i].tensors) map[tensor->name] = ShardName(i, shards.size());
  }
  const ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  return WriteText(folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

// Gemma's norms are stored without 1 in Hugging Face's folders, and with it in GGUF files.
bool LacksOne(const format::ModelConfig& config) {
  return config.norm == format::NormKind::kRmsFloat && !config.norm_weight_plus_one;
}

class Writer {
 public:
  Writer(const MergedWeights& weights, const HfFolderOptions& options, int64_t total, const Progress& progress)
      : weights_(weights), options_(options), total_(total), progress_(progress) {}

  absl::Status WriteShard(const Shard& shard, const std::string& path) {
    std::vector<format::SafetensorsWriter::Layout> layout;
    for (const format::TensorInfo* tensor : shard.tensors) layout.push_back({tensor->name, options_.dtype, tensor->shape});
    auto writer = format::SafetensorsWriter::Create(path, std::move(layout));
    if (!writer.ok()) return writer.status();
    for (const format::TensorInfo* tensor : shard.tensors) {
      auto numbers = weights_.Read(*tensor);
      if (!numbers.ok()) return numbers.status();
      if (LacksOne(weights_.base().config()) && absl::EndsWith(tensor->name, "norm.weight")) {
        for (float& x : *numbers) x -= 1.0f;
      }
      std::vector<uint8_t> bytes(*format::StorageBytes(options_.dtype, tensor->shape));
      absl::Status s = format::EncodeFromF32(options_.dtype, *numbers, bytes);
      if (s.ok()) s = (*writer)->Append(tensor->name, bytes);
      if (s.ok()) s = Report(progress_, done_ += static_cast<int64_t>(bytes.size()), total_);
      if (!s.ok()) return s;
    }
    return (*writer)->Finish();
  }

 private:
  const MergedWeights& weights_;
  const HfFolderOptions& options_;
  const int64_t total_;
  const Progress& progress_;
  int64_t done_ = 0;
};

}  // namespace

absl::Status WriteHfFolder(const MergedWeights& weights, const HfFolderOptions& options, const std::string& folder,
                           const Progress& progress) {
  const absl::StatusOr<HfTexts> texts = HfTextsOf(weights.base(), options.base_path, options.dtype);
  if (!texts.ok()) return texts.status();
  const absl::StatusOr<std::vector<Shard>> shards = Divide(weights.base(), options);
  if (!shards.ok()) return shards.status();
  int64_t total = 0;
  for (const Shard& shard : *shards) total += shard.bytes;
  if (absl::Status s = CheckFreeSpace(folder, total); !s.ok()) return s;
  Writer writer(weights, options, total, progress);
  for (size_t i = 0; i < shards->size(); ++i) {
    absl::Status s = writer.WriteShard((*shards)[i], folder + "/" + ShardName(i, shards->size()));
    if (!s.ok()) return s;
  }
  if (absl::Status s = WriteIndex(*shards, total, folder); !s.ok()) return s;
  for (const auto& [name, text] : *texts) {
    if (absl::Status s = WriteText(folder + "/" + name, text); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace finetuned::exports
