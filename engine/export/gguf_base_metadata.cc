#include "engine/export/gguf_base_metadata.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/format/dequantize.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/mapped_file.h"
#include "engine/format/rope.h"
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

absl::StatusOr<GgufHead> CopiedMetadata(const std::string& path, const std::string& name, uint32_t file_type) {
  const auto file = format::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const auto gguf = format::ParseGguf((*file)->bytes(), (*file)->name());
  if (!gguf.ok()) return gguf.status();
  GgufHead head;
  const auto architecture = gguf->metadata.String("general.architecture");
  if (!architecture.ok()) return architecture.status();
  Identity(architecture->value_or(""), name, file_type, &head.metadata);
  const std::set<std::string> written = {"general.architecture", "general.type", "general.name", "general.file_type",
                                         "general.quantization_version", "general.alignment"};
  for (const auto& [key, value] : gguf->metadata.values()) {
    if (!written.contains(key)) head.metadata.Copy(key, value);
  }
  for (const format::GgufTensor& tensor : gguf->tensors) {
    if (tensor.info.name != "rope_freqs.weight") continue;
    ExtraTensor table{tensor.info.name, std::vector<float>(*format::ElementCount(tensor.info.shape))};
    absl::Status s = format::DecodeToF32(tensor.info.dtype, (*file)->bytes().subspan(tensor.offset, tensor.info.bytes),
                                         table.numbers);
    if (!s.ok()) return s;
    head.tensors.push_back(std::move(table));
  }
  return head;
}

// These architectures have no sliding window in GGUF: a file's context ends where attention would begin to differ.
int64_t ContextOf(const format::ModelConfig& c) {
  int64_t context = c.max_position_embeddings;
  for (const format::LayerKind& kind : c.layer_kinds) {
    if (kind.window > 0) context = std::min(context, kind.window);
  }
  return context;
}

void Sizes(const format::ModelConfig& c, GgufMetadataBuilder* m) {
  const std::string prefix = c.architecture + ".";
  const auto size = [&](const char* key, int64_t value) { m->U32(prefix + key, static_cast<uint32_t>(value)); };
  size("block_count", c.num_hidden_layers);
  size("context_length", ContextOf(c));
  size("embedding_length", c.hidden_size);
  size("feed_forward_length", c.intermediate_size);
  size("attention.head_count", c.num_attention_heads);
  size("attention.head_count_kv", c.num_key_value_heads);
  size("attention.key_length", c.head_dim);
  size("attention.value_length", c.head_dim);
  size("rope.dimension_count", c.head_dim);
  size("vocab_size", c.vocab_size);
  m->F32(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_norm_eps));
  m->F32(prefix + "rope.freq_base", static_cast<float>(c.rope_theta));
}

// llama3 scaling becomes a table of divisors, as llama.cpp's converter writes it.
void RopeScalingOf(const format::ModelConfig& c, GgufHead* head) {
  using Type = format::RopeScaling::Type;
  if (c.rope_scaling.type == Type::kLinear) {
    head->metadata.String(c.architecture + ".rope.scaling.type", "linear");
    head->metadata.F32(c.architecture + ".rope.scaling.factor", static_cast<float>(c.rope_scaling.factor));
  }
  if (c.rope_scaling.type != Type::kLlama3) return;
  format::ModelConfig plain = c;
  plain.rope_scaling = {};
  const std::vector<double> scaled = format::InverseFrequencies(c), full = format::InverseFrequencies(plain);
  ExtraTensor table{"rope_freqs.weight", {}};
  for (size_t i = 0; i < full.size(); ++i) table.numbers.push_back(static_cast<float>(full[i] / scaled[i]));
  head->tensors.push_back(std::move(table));
}

absl::Status AddTokenizer(const format::ModelSource& base, const std::string& folder, GgufMetadataBuilder* m) {
  const auto json = format::ReadSmallFile(folder + "/tokenizer.json", kMaxTokenizerBytes);
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

absl::StatusOr<GgufHead> BaseMetadata(const format::ModelSource& base, const std::string& base_path,
                                      const std::string& name, uint32_t file_type) {
  if (!std::filesystem::is_directory(base_path)) return CopiedMetadata(base_path, name, file_type);
  GgufHead head;
  Identity(base.config().architecture, name, file_type, &head.metadata);
  Sizes(base.config(), &head.metadata);
  RopeScalingOf(base.config(), &head);
  if (absl::Status s = AddTokenizer(base, base_path, &head.metadata); !s.ok()) return s;
  return head;
}

}  // namespace finetuned::exports
