#include "engine/format/stored_model.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/format/dequantize.h"
#include "engine/format/model_layout.h"
#include "engine/format/sha256.h"

namespace finetuned::format {
namespace {

// What makes a model another one than Llama; empty for Llama, whose fingerprints are older than these fields.
std::string DescribeParts(const ModelConfig& c) {
  if (c.architecture == "llama" && c.layer_kinds.empty()) return "";
  std::string text = absl::StrFormat(
      "output_bias=%d\nnorm=%d %d\nactivation=%d\nblock=%d\nqk_norm=%d\nfused=%d\nrotary=%d %d\nlocal_rope=%a\n"
      "attention=%a %a\nlogits=%a %a\nembedding=%a\nresidual=%a\nlong_rope=%a",
      c.output_bias, static_cast<int>(c.norm), c.norm_weight_plus_one, static_cast<int>(c.activation),
      static_cast<int>(c.block), static_cast<int>(c.qk_norm), c.fused_projections, c.rotary_dim, c.rope_interleaved,
      c.local_rope_theta, c.attention_scale, c.attention_softcap, c.logits_softcap, c.logits_multiplier,
      c.embedding_multiplier, c.residual_multiplier, c.rope_scaling.magnitude);
  for (float divisor : c.rope_scaling.long_divisors) absl::StrAppendFormat(&text, " %a", divisor);
  for (const LayerKind& layer : c.layer_kinds) {
    absl::StrAppendFormat(&text, "\nlayer=%d %d %d", layer.window, layer.rope, layer.local_rope);
  }
  return text + "\n";
}

// Every field by name, doubles exactly (hexadecimal).
std::string Describe(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  std::string text = absl::StrCat(
      "architecture=", c.architecture, "\nvocab_size=", c.vocab_size,
      "\nhidden_size=", c.hidden_size, "\nintermediate_size=", c.intermediate_size,
      "\nnum_hidden_layers=", c.num_hidden_layers, "\nnum_attention_heads=", c.num_attention_heads,
      "\nnum_key_value_heads=", c.num_key_value_heads, "\nhead_dim=", c.head_dim,
      "\nmax_position_embeddings=", c.max_position_embeddings,
      "\ntie_word_embeddings=", c.tie_word_embeddings, "\nattention_bias=", c.attention_bias,
      "\nmlp_bias=", c.mlp_bias);
  absl::StrAppend(&text, "\nbos_token_id=", c.bos_token_id.value_or(-1),
                  "\neos_token_ids=", absl::StrJoin(c.eos_token_ids, ","));
  absl::StrAppendFormat(&text, "\nrms_norm_eps=%a\nrope_theta=%a\nrope=%d %a %a %a %d",
                        c.rms_norm_eps, c.rope_theta, static_cast<int>(s.type), s.factor,
                        s.low_freq_factor, s.high_freq_factor, s.original_max_position_embeddings);
  for (float divisor : s.divisors) absl::StrAppendFormat(&text, " %a", divisor);
  return text + "\n" + DescribeParts(c);
}

}  // namespace

std::string Fingerprint(const ModelConfig& config, const std::vector<TensorInfo>& tensors,
                        const std::vector<std::shared_ptr<const MappedFile>>& files) {
  constexpr size_t kEdge = 64 << 10;
  Sha256 hash;
  hash.Update("finetuned model 1\n");
  hash.Update(Describe(config));
  for (const TensorInfo& tensor : tensors) {
    hash.Update(absl::StrCat(tensor.name, " ", DTypeName(tensor.dtype), " ",
                             ShapeString(tensor.shape), "\n"));
  }
  for (const std::shared_ptr<const MappedFile>& file : files) {
    const std::span<const uint8_t> bytes = file->bytes();
    const size_t edge = std::min(kEdge, bytes.size());
    hash.Update(absl::StrCat("file ", bytes.size(), "\n"));
    hash.Update(bytes.first(edge));
    hash.Update(bytes.last(edge));
  }
  return hash.FinishHex();
}

StoredModel::StoredModel(ModelParts parts) : parts_(std::move(parts)) {
  for (size_t i = 0; i < parts_.tensors.size(); ++i) index_[parts_.tensors[i].name] = i;
  fingerprint_ = Fingerprint(parts_.config, parts_.tensors, parts_.files);
}

absl::StatusOr<std::shared_ptr<const ModelSource>> StoredModel::Create(ModelParts parts) {
  const absl::StatusOr<std::vector<size_t>> order =
      MatchTensors(parts.config, parts.tensors, parts.name);
  if (!order.ok()) return order.status();
  std::vector<TensorInfo> tensors;
  std::vector<std::span<const uint8_t>> bytes;
  for (size_t i : *order) {
    tensors.push_back(std::move(parts.tensors[i]));
    bytes.push_back(parts.bytes[i]);
  }
  parts.tensors = std::move(tensors);
  parts.bytes = std::move(bytes);
  return std::shared_ptr<const ModelSource>(new StoredModel(std::move(parts)));
}

const TensorInfo* StoredModel::Find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &parts_.tensors[it->second];
}

absl::StatusOr<std::span<const uint8_t>> StoredModel::Raw(const TensorInfo& tensor) const {
  const auto it = index_.find(tensor.name);
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat(parts_.name, ": no tensor ", tensor.name));
  }
  return parts_.bytes[it->second];
}

const BnbWeight* StoredModel::Packed(const TensorInfo& tensor) const {
  const auto it = parts_.packed.find(tensor.name);
  return it == parts_.packed.end() ? nullptr : &it->second;
}

int64_t StoredModel::InterleavedHeads(const std::string& name) const {
  if (!parts_.interleaved_rope) return 0;
  if (absl::StrContains(name, ".q_proj.")) return parts_.config.num_attention_heads;
  if (absl::StrContains(name, ".k_proj.")) return parts_.config.num_key_value_heads;
  return 0;
}

absl::Status StoredModel::ReadF32(const TensorInfo& tensor, std::span<float> out) const {
  const absl::StatusOr<std::span<const uint8_t>> raw = Raw(tensor);
  if (!raw.ok()) return raw.status();
  const TensorInfo& stored = parts_.tensors[index_.at(tensor.name)];
  const absl::StatusOr<int64_t> count = ElementCount(stored.shape);
  if (!count.ok()) return count.status();
  if (static_cast<int64_t>(out.size()) != *count) {
    return absl::InvalidArgumentError(absl::StrCat(parts_.name, ": tensor ", tensor.name,
                                                   ": expected room for ", *count,
                                                   " numbers, found ", out.size()));
  }
  if (const BnbWeight* packed = Packed(stored)) {
    DecodeBnb(*packed, out);
    return absl::OkStatus();
  }
  const int64_t heads = InterleavedHeads(stored.name);
  if (heads == 0) return DecodeToF32(stored.dtype, *raw, out);
  // Row (head, pair, half) of the file is row (head, half, pair) of Hugging Face's order. Biases
  // are rows of one number.
  const int64_t rows = stored.shape[0], columns = *count / rows;
  const int64_t row_bytes = stored.bytes / rows, half = rows / heads / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / (2 * half), pair = row % (2 * half) / 2, which = row % 2;
    const int64_t target = head * 2 * half + which * half + pair;
    const absl::Status status = DecodeToF32(stored.dtype, raw->subspan(row * row_bytes, row_bytes),
                                            out.subspan(target * columns, columns));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace finetuned::format
