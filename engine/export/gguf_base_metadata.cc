#include "engine/export/gguf_base_metadata.h"

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/format/dequantize.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/gguf_tensor_names.h"
#include "engine/format/mapped_file.h"
#include "engine/text/gguf_tokenizer_json.h"

namespace finetuned::exports {
namespace {

using format::GgufMetadataBuilder;

constexpr size_t kMaxTokenizerBytes = 256 << 20;
constexpr uint32_t kQuantizationVersion = 2;

void Identity(const std::string& architecture, const std::string& name, uint32_t file_type, GgufMetadataBuilder* m) {
  m->String("general.architecture", architecture);
  m->String("general.type", "model");
  m->String("general.name", name);
  m->U32("general.file_type", file_type);
  m->U32("general.quantization_version", kQuantizationVersion);
}

absl::StatusOr<GgufHead> CopiedMetadata(const std::string& path, const std::string& architecture, const std::string& name,
                                        uint32_t file_type) {
  const auto file = format::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto gguf = format::ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  GgufHead head;
  Identity(architecture, name, file_type, &head.metadata);
  const std::set<std::string> written = {"general.architecture", "general.type", "general.name", "general.file_type",
                                         "general.quantization_version", "general.alignment"};
  for (const auto& [key, value] : gguf->metadata.values()) {
    if (!written.contains(key)) head.metadata.Copy(key, value);
  }
  for (const format::GgufTensor& tensor : gguf->tensors) {
    if (!format::IsGgufTable(tensor.info.name)) continue;
    ExtraTensor table{tensor.info.name, std::vector<float>(*format::ElementCount(tensor.info.shape))};
    absl::Status s = format::DecodeToF32(tensor.info.dtype, (*file)->bytes().subspan(tensor.offset, tensor.info.bytes),
                                         table.numbers);
    if (!s.ok()) return s;
    head.tensors.push_back(std::move(table));
  }
  return head;
}

absl::Status AddTokenizer(const format::ModelSource& base, const std::string& folder, GgufMetadataBuilder* m) {
  const format::TokenizerTexts* extended = base.extended_tokenizer();
  const auto json = extended != nullptr ? extended->tokenizer_json
                                        : format::ReadSmallFile(folder + "/tokenizer.json", kMaxTokenizerBytes);
  if (!json.ok()) return json.status();
  const auto tokenizer = base.LoadTokenizer();
  if (!tokenizer.ok()) return tokenizer.status();
  const auto v = text::GgufVocabularyOfJson(*json, **tokenizer, base.config().vocab_size);
  if (!v.ok()) return v.status();
  const auto id = [&](const char* key, std::optional<int32_t> value) {
    if (value) m->U32(key, static_cast<uint32_t>(*value));
  };
  const std::vector<int32_t>& ends = base.config().eos_token_ids;
  const std::optional<int32_t> end = ends.empty() ? std::nullopt : std::optional<int32_t>(ends[0]);
  m->String("tokenizer.ggml.model", v->model);
  m->String("tokenizer.ggml.pre", v->pre);
  m->Strings("tokenizer.ggml.tokens", v->tokens);
  m->I32s("tokenizer.ggml.token_type", v->types);
  if (!v->scores.empty()) m->F32s("tokenizer.ggml.scores", v->scores);
  if (!v->merges.empty()) m->Strings("tokenizer.ggml.merges", v->merges);
  id("tokenizer.ggml.bos_token_id", v->bos ? v->bos : base.config().bos_token_id);
  id("tokenizer.ggml.eos_token_id", v->eos ? v->eos : end);
  if (v->eos && end && *end != *v->eos) id("tokenizer.ggml.eot_token_id", end);
  id("tokenizer.ggml.unknown_token_id", v->unk);
  id("tokenizer.ggml.padding_token_id", v->pad);
  m->Bool("tokenizer.ggml.add_bos_token", v->add_bos.value_or(false));
  m->Bool("tokenizer.ggml.add_eos_token", v->add_eos.value_or(false));
  if (v->add_space_prefix) m->Bool("tokenizer.ggml.add_space_prefix", *v->add_space_prefix);
  if (!base.chat_template().empty()) m->String("tokenizer.chat_template", base.chat_template());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufHead> BaseMetadata(const format::ModelSource& base, const std::string& base_path, const std::string& architecture,
                                      const std::string& name, uint32_t file_type) {
  if (!std::filesystem::is_directory(base_path) && base.extended_tokenizer() != nullptr) {
    return absl::UnimplementedError("the vocabulary of a GGUF base is copied as it is, and this adapter has new tokens: export as "
                                    "\"merged\", and that folder as gguf");
  }
  if (!std::filesystem::is_directory(base_path)) return CopiedMetadata(base_path, architecture, name, file_type);
  GgufHead head;
  Identity(architecture, name, file_type, &head.metadata);
  AddModelKeys(base.config(), architecture, &head);
  if (absl::Status s = CheckModelKeys(base, head); !s.ok()) return s;
  if (absl::Status s = AddTokenizer(base, base_path, &head.metadata); !s.ok()) return s;
  return head;
}

}  // namespace finetuned::exports
