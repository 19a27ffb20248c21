#include "engine/format/hf_folder.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/format/hf_config.h"
#include "engine/format/mapped_file.h"
#include "engine/format/safetensors_reader.h"
#include "engine/format/stored_model.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 16 << 20;
constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxTokenizerBytes = 256 << 20;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// The file's content, or empty when there is none.
absl::StatusOr<std::string> ReadOptional(const std::string& path, size_t max_bytes) {
  if (!Exists(path)) return std::string();
  return ReadSmallFile(path, max_bytes);
}

// A shard must be a file of the folder itself. Symbolic links are fine: the Hugging Face cache
// consists of them.
absl::Status CheckShardName(const std::string& shard, const std::string& where) {
  if (absl::EndsWith(shard, ".safetensors") && shard.find_first_of("/\\") == std::string::npos &&
      shard.find('\0') == std::string::npos && shard[0] != '.') {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": expected the name of a .safetensors file in the same folder, found \"",
                   absl::Utf8SafeCHexEscape(shard), "\""));
}

// Tensor name -> shard file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& folder) {
  const std::string path = folder + "/" + kIndex;
  const std::string name = DisplayName(path);
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<json> document = ParseStrictJson(*text, name);
  if (!document.ok()) return document.status();
  if (!document->is_object() || !document->contains("weight_map") ||
      !(*document)["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": weight_map: expected an object"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : (*document)["weight_map"].items()) {
    const std::string where =
        absl::StrCat(name, ": weight_map: tensor ", absl::Utf8SafeCHexEscape(tensor));
    if (!shard.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": expected a file name"));
    }
    const std::string& file = shard.get_ref<const std::string&>();
    if (absl::Status s = CheckShardName(file, where); !s.ok()) return s;
    shards[tensor] = file;
  }
  return shards;
}

void AddTensors(const SafetensorsFile& file, ModelParts* parts) {
  for (const TensorInfo& tensor : file.tensors()) {
    parts->tensors.push_back(tensor);
    parts->bytes.push_back(*file.Raw(tensor.name));
  }
  parts->files.push_back(file.file());
}

absl::Status AddSingle(const std::string& folder, ModelParts* parts) {
  const absl::StatusOr<std::shared_ptr<const SafetensorsFile>> file =
      SafetensorsFile::Open(folder + "/" + kSingle);
  if (!file.ok()) return file.status();
  parts->name = (*file)->file()->name();
  AddTensors(**file, parts);
  return absl::OkStatus();
}

// Index and shards must agree: each tensor of the index in its shard, and no other ones there.
absl::Status AddShards(const std::string& folder, ModelParts* parts) {
  const absl::StatusOr<std::map<std::string, std::string>> index = ReadIndex(folder);
  if (!index.ok()) return index.status();
  parts->name = DisplayName(folder + "/" + kIndex);
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> shards;
  for (const auto& [tensor, shard] : *index) {
    std::shared_ptr<const SafetensorsFile>& file = shards[shard];
    if (file == nullptr) {
      absl::StatusOr<std::shared_ptr<const SafetensorsFile>> opened =
          SafetensorsFile::Open(folder + "/" + shard);
      if (!opened.ok()) return opened.status();
      file = *std::move(opened);
    }
    if (file->Find(tensor) == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(parts->name, ": tensor ", absl::Utf8SafeCHexEscape(tensor),
                       " is expected in ", shard, ", which does not have it"));
    }
  }
  for (const auto& [shard, file] : shards) {
    for (const TensorInfo& tensor : file->tensors()) {
      const auto it = index->find(tensor.name);
      if (it == index->end() || it->second != shard) {
        return absl::InvalidArgumentError(absl::StrCat(
            file->file()->name(), ": tensor ", absl::Utf8SafeCHexEscape(tensor.name),
            it == index->end() ? " is not listed in " : " is listed for another file in ", kIndex));
      }
    }
    AddTensors(*file, parts);
  }
  return absl::OkStatus();
}

absl::Status AddWeights(const std::string& folder, ModelParts* parts) {
  if (Exists(folder + "/" + kSingle)) return AddSingle(folder, parts);
  if (Exists(folder + "/" + kIndex)) return AddShards(folder, parts);
  return absl::NotFoundError(absl::StrCat(
      DisplayName(folder), ": neither ", kSingle, " nor ", kIndex,
      " is there (weights of other formats, such as pytorch_model.bin, are not loaded; save the "
      "model as safetensors)"));
}

// Leaves out the images' part and gives tensors the names of the text model.
void TakeTextPart(ModelParts* parts) {
  size_t kept = 0;
  for (size_t i = 0; i < parts->tensors.size(); ++i) {
    if (IsVisionTensor(parts->tensors[i].name)) continue;
    if (kept != i) parts->tensors[kept] = std::move(parts->tensors[i]);
    parts->bytes[kept] = parts->bytes[i];
    parts->tensors[kept].name = TextTensorName(parts->tensors[kept].name);
    ++kept;
  }
  parts->tensors.resize(kept);
  parts->bytes.resize(kept);
}

// tokenizer_config.json holds one template, or a list of {name, template} of which "default"
// counts.
absl::StatusOr<std::string> TemplateOfTokenizerConfig(const std::string& text,
                                                      const std::string& name) {
  if (text.empty()) return std::string();
  const absl::StatusOr<json> document = ParseStrictJson(text, name);
  if (!document.ok()) return document.status();
  if (!document->is_object() || !document->contains("chat_template")) return std::string();
  const json& value = (*document)["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const json& item : value) {
      if (item.is_object() && item.value("name", json()) == "default" &&
          item.value("template", json()).is_string()) {
        return item["template"].get<std::string>();
      }
    }
    return std::string();
  }
  if (value.is_null()) return std::string();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": chat_template: expected a string or a list of named templates, found ",
                   value.type_name()));
}

absl::StatusOr<std::string> ReadChatTemplate(const std::string& folder) {
  const std::string jinja = folder + "/chat_template.jinja";
  if (Exists(jinja)) return ReadSmallFile(jinja, kMaxConfigBytes);
  const std::string path = folder + "/tokenizer_config.json";
  const absl::StatusOr<std::string> text = ReadOptional(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return TemplateOfTokenizerConfig(*text, DisplayName(path));
}

absl::StatusOr<std::shared_ptr<const text::Tokenizer>> LoadHfTokenizer(const std::string& folder,
                                                                        int64_t vocab_size) {
  const std::string path = folder + "/tokenizer.json";
  const absl::StatusOr<std::string> tokenizer = ReadSmallFile(path, kMaxTokenizerBytes);
  if (!tokenizer.ok()) return tokenizer.status();
  const absl::StatusOr<std::string> config =
      ReadOptional(folder + "/tokenizer_config.json", kMaxConfigBytes);
  if (!config.ok()) return config.status();
  auto loaded = text::TokenizerFromJson(*tokenizer, *config);
  if (loaded.ok() && (*loaded)->vocabulary_size() > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(DisplayName(path), ": expected at most ", vocab_size,
                     " tokens, one for each row of model.embed_tokens.weight, found ", (*loaded)->vocabulary_size(),
                     ": take the model's own tokenizer, or resize the embeddings"));
  }
  return loaded;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelSource>> OpenHfFolder(const std::string& path) {
  const std::string folder = std::filesystem::path(path + "/").parent_path().string();
  const absl::StatusOr<std::string> config_text =
      ReadSmallFile(folder + "/config.json", kMaxConfigBytes);
  if (!config_text.ok()) return config_text.status();
  const absl::StatusOr<std::string> generation_text =
      ReadOptional(folder + "/generation_config.json", kMaxConfigBytes);
  if (!generation_text.ok()) return generation_text.status();

  ModelParts parts;
  const std::string display = std::filesystem::path(folder).filename().string();
  absl::StatusOr<ModelConfig> config = ParseHfConfig(*config_text, *generation_text, display);
  if (!config.ok()) return config.status();
  parts.config = *std::move(config);
  absl::StatusOr<std::string> chat = ReadChatTemplate(folder);
  if (!chat.ok()) return chat.status();
  parts.chat_template = *std::move(chat);
  if (absl::Status s = AddWeights(folder, &parts); !s.ok()) return s;
  if (!parts.config.text_prefix.empty()) TakeTextPart(&parts);
  if (!parts.config.stored_base.empty()) {
    const absl::Status s = FoldBnbWeights(parts.name, &parts.tensors, &parts.bytes, &parts.packed);
    if (!s.ok()) return s;
  }
  parts.load_tokenizer = [folder, size = parts.config.vocab_size] { return LoadHfTokenizer(folder, size); };
  return StoredModel::Create(std::move(parts));
}

}  // namespace finetuned::format
