#include "engine/format/gguf_model.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/format/gguf_config.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/gguf_tensor_names.h"
#include "engine/format/mapped_file.h"
#include "engine/format/stored_model.h"

namespace finetuned::format {
namespace {

absl::Status CheckVocabulary(const GgufMetadata& metadata, int64_t vocab_size,
                             const std::string& name) {
  const GgufValue* tokens = metadata.Find("tokenizer.ggml.tokens");
  if (tokens != nullptr && tokens->type == GgufType::kArray &&
      tokens->count > static_cast<uint64_t>(vocab_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": tensor token_embd.weight: expected at least ", tokens->count,
                     " rows, one for each token of tokenizer.ggml.tokens, found ", vocab_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelSource>> OpenGgufModel(const std::string& path) {
  absl::StatusOr<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const std::string name = (*file)->name();
  const std::span<const uint8_t> bytes = (*file)->bytes();
  absl::StatusOr<GgufLayout> parsed = ParseGguf(bytes, name);
  if (!parsed.ok()) return parsed.status();
  absl::StatusOr<ModelConfig> config = GgufConfig(*parsed, bytes, name);
  if (!config.ok()) return config.status();
  if (absl::Status s = CheckVocabulary(parsed->metadata, config->vocab_size, name); !s.ok()) {
    return s;
  }
  const absl::StatusOr<std::optional<std::string>> chat =
      parsed->metadata.String("tokenizer.chat_template");
  if (!chat.ok()) return chat.status();

  ModelParts parts;
  parts.name = name;
  parts.config = *std::move(config);
  parts.interleaved_rope = GgufInterleavesRope(parts.config);
  parts.chat_template = chat->value_or("");
  for (const GgufTensor& tensor : parsed->tensors) {
    if (IsGgufTable(tensor.info.name)) continue;
    parts.tensors.push_back(tensor.info);
    parts.tensors.back().name = HfTensorName(tensor.info.name, parts.config);
    parts.bytes.push_back(bytes.subspan(tensor.offset, tensor.info.bytes));
  }
  parts.files = {*file};
  parts.load_tokenizer = [metadata = std::move(parsed->metadata), keep = *file,
                          name]() -> absl::StatusOr<std::shared_ptr<const text::Tokenizer>> {
    const absl::StatusOr<text::GgufVocabulary> vocabulary = ReadGgufVocabulary(metadata, name);
    if (!vocabulary.ok()) return vocabulary.status();
    return text::TokenizerFromGguf(*vocabulary);
  };
  return StoredModel::Create(std::move(parts));
}

}  // namespace finetuned::format
