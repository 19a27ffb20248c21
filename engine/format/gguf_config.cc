#include "engine/format/gguf_config.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/format/dequantize.h"
#include "engine/format/model_layout.h"

namespace finetuned::format {
namespace {

constexpr char kRopeFactors[] = "rope_freqs.weight";

const GgufTensor* FindTensor(const GgufLayout& gguf, absl::string_view name) {
  const auto it = std::find_if(gguf.tensors.begin(), gguf.tensors.end(),
                               [name](const GgufTensor& t) { return t.info.name == name; });
  return it == gguf.tensors.end() ? nullptr : &*it;
}

// Reads metadata, keeping the first error.
class Keys {
 public:
  Keys(const GgufMetadata& metadata, std::string name)
      : metadata_(metadata), name_(std::move(name)) {}

  const absl::Status& status() const { return status_; }
  const std::string& name() const { return name_; }

  std::optional<int64_t> Int(absl::string_view key) { return Keep(metadata_.Int(key)); }
  std::optional<double> Number(absl::string_view key) { return Keep(metadata_.Number(key)); }
  std::optional<bool> Bool(absl::string_view key) { return Keep(metadata_.Bool(key)); }
  std::optional<std::string> String(absl::string_view key) { return Keep(metadata_.String(key)); }
  std::optional<std::vector<std::string>> Strings(absl::string_view key) {
    return Keep(metadata_.Strings(key));
  }
  std::optional<std::vector<float>> Floats(absl::string_view key) {
    return Keep(metadata_.Floats(key));
  }
  std::optional<std::vector<int32_t>> Ints(absl::string_view key) {
    return Keep(metadata_.Ints(key));
  }

  int64_t RequiredInt(absl::string_view key) {
    const std::optional<int64_t> value = Int(key);
    if (!value) Fail(absl::InvalidArgumentError(Message(key, "is missing")));
    return value.value_or(0);
  }

  std::optional<int32_t> TokenId(absl::string_view key) {
    const std::optional<int64_t> value = Int(key);
    if (!value) return std::nullopt;
    if (*value < 0 || *value > std::numeric_limits<int32_t>::max()) {
      Fail(absl::InvalidArgumentError(
          Message(key, absl::StrCat(": expected a token id, found ", *value))));
      return std::nullopt;
    }
    return static_cast<int32_t>(*value);
  }

  void Unsupported(absl::string_view key, absl::string_view text) {
    Fail(absl::UnimplementedError(Message(key, text)));
  }

 private:
  std::string Message(absl::string_view key, absl::string_view text) const {
    return absl::StrCat(name_, ": metadata ", key, " ", text);
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  template <typename T>
  std::optional<T> Keep(absl::StatusOr<std::optional<T>> value) {
    if (value.ok()) return *std::move(value);
    Fail(value.status());
    return std::nullopt;
  }

  const GgufMetadata& metadata_;
  const std::string name_;
  absl::Status status_;
};

// Keys of variants of the architecture that are not built here.
void RefuseVariants(Keys& keys, const ModelConfig& config) {
  if (keys.Int("llama.expert_count").value_or(0) > 0) {
    keys.Unsupported("llama.expert_count", "is not 0: mixtures of experts are not supported");
  }
  const int64_t rotary = keys.Int("llama.rope.dimension_count").value_or(config.head_dim);
  if (rotary != config.head_dim) {
    keys.Unsupported("llama.rope.dimension_count",
                     absl::StrCat("expected ", config.head_dim, ", found ", rotary));
  }
  const int64_t value_length = keys.Int("llama.attention.value_length").value_or(config.head_dim);
  if (value_length != config.head_dim) {
    keys.Unsupported("llama.attention.value_length",
                     absl::StrCat("expected ", config.head_dim, ", found ", value_length));
  }
}

void ReadRopeScaling(Keys& keys, RopeScaling* scaling) {
  const std::string type = keys.String("llama.rope.scaling.type").value_or("none");
  if (type == "linear") {
    scaling->type = RopeScaling::Type::kLinear;
    scaling->factor = keys.Number("llama.rope.scaling.factor").value_or(1.0);
  } else if (type != "none") {
    keys.Unsupported(
        "llama.rope.scaling.type",
        absl::StrCat(absl::Utf8SafeCHexEscape(type), " is not supported; supported: none, linear"));
  } else if (const std::optional<double> scale = keys.Number("llama.rope.scale_linear")) {
    scaling->type = RopeScaling::Type::kLinear;
    scaling->factor = *scale;
  }
}

// llama.cpp writes llama3 scaling as one divisor per frequency.
absl::Status ReadRopeDivisors(const GgufLayout& gguf, std::span<const uint8_t> file,
                              const std::string& name, ModelConfig* config) {
  const GgufTensor* tensor = FindTensor(gguf, kRopeFactors);
  if (tensor == nullptr) return absl::OkStatus();
  const std::vector<int64_t> expected = {config->head_dim / 2};
  if (tensor->info.dtype != DType::kF32 || tensor->info.shape != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": tensor ", kRopeFactors, ": expected F32 ", ShapeString(expected), ", found ",
        DTypeName(tensor->info.dtype), " ", ShapeString(tensor->info.shape)));
  }
  if (config->rope_scaling.type != RopeScaling::Type::kNone) {
    return absl::UnimplementedError(absl::StrCat(
        name, ": ", kRopeFactors, " together with llama.rope.scaling is not supported"));
  }
  config->rope_scaling.type = RopeScaling::Type::kDivisors;
  config->rope_scaling.divisors.resize(expected[0]);
  return DecodeToF32(DType::kF32, file.subspan(tensor->offset, tensor->info.bytes),
                     std::span<float>(config->rope_scaling.divisors));
}

void ReadSizes(Keys& keys, ModelConfig* config) {
  config->architecture = "llama";
  config->hidden_size = keys.RequiredInt("llama.embedding_length");
  config->intermediate_size = keys.RequiredInt("llama.feed_forward_length");
  config->num_hidden_layers = keys.RequiredInt("llama.block_count");
  config->num_attention_heads = keys.RequiredInt("llama.attention.head_count");
  config->num_key_value_heads =
      keys.Int("llama.attention.head_count_kv").value_or(config->num_attention_heads);
  const int64_t heads = config->num_attention_heads;
  config->head_dim =
      keys.Int("llama.attention.key_length").value_or(heads > 0 ? config->hidden_size / heads : 0);
  config->max_position_embeddings = keys.RequiredInt("llama.context_length");
  const std::optional<double> eps = keys.Number("llama.attention.layer_norm_rms_epsilon");
  // Stored as f32: 1e-5 comes back as 9.99999975e-06, which is the same float again.
  config->rms_norm_eps = eps.value_or(1e-5);
  config->rope_theta = keys.Number("llama.rope.freq_base").value_or(10000.0);
}

void ReadTokenIds(Keys& keys, ModelConfig* config) {
  config->bos_token_id = keys.TokenId("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const std::optional<int32_t> id = keys.TokenId(key);
    std::vector<int32_t>& eos = config->eos_token_ids;
    if (id && std::find(eos.begin(), eos.end(), *id) == eos.end()) eos.push_back(*id);
  }
}

}  // namespace

absl::StatusOr<ModelConfig> GgufConfig(const GgufLayout& gguf, std::span<const uint8_t> file,
                                       const std::string& name) {
  Keys keys(gguf.metadata, name);
  const std::string architecture = keys.String("general.architecture").value_or("");
  if (!keys.status().ok()) return keys.status();
  if (architecture != "llama") {
    return absl::UnimplementedError(absl::StrCat(name, ": metadata general.architecture: \"",
                                                 absl::Utf8SafeCHexEscape(architecture),
                                                 "\" is not supported; supported: llama"));
  }
  ModelConfig config;
  ReadSizes(keys, &config);
  ReadTokenIds(keys, &config);
  RefuseVariants(keys, config);
  ReadRopeScaling(keys, &config.rope_scaling);
  const GgufTensor* embedding = FindTensor(gguf, "token_embd.weight");
  if (!keys.status().ok()) return keys.status();
  if (embedding == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": tensor token_embd.weight is missing"));
  }
  config.vocab_size = embedding->info.shape[0];
  config.tie_word_embeddings = FindTensor(gguf, "output.weight") == nullptr;
  config.attention_bias = FindTensor(gguf, "blk.0.attn_q.bias") != nullptr;
  config.mlp_bias = FindTensor(gguf, "blk.0.ffn_gate.bias") != nullptr;
  if (absl::Status s = CheckConfig(config, name); !s.ok()) return s;
  if (absl::Status s = ReadRopeDivisors(gguf, file, name, &config); !s.ok()) return s;
  if (absl::Status s = CheckConfig(config, name); !s.ok()) return s;
  return config;
}

std::string HfTensorName(absl::string_view gguf_name) {
  static const auto& kTop = *new std::map<absl::string_view, const char*>{
      {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
  static const auto& kLayer = *new std::map<absl::string_view, const char*>{
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  const std::string unknown(gguf_name);
  const size_t dot = gguf_name.rfind('.');
  if (dot == absl::string_view::npos) return unknown;
  absl::string_view stem = gguf_name.substr(0, dot);
  const absl::string_view kind = gguf_name.substr(dot);  // ".weight" or ".bias"
  if (!absl::ConsumePrefix(&stem, "blk.")) {
    const auto it = kTop.find(stem);
    return it == kTop.end() ? unknown : absl::StrCat(it->second, kind);
  }
  const size_t end = stem.find('.');
  if (end == absl::string_view::npos) return unknown;
  const auto it = kLayer.find(stem.substr(end + 1));
  if (it == kLayer.end()) return unknown;
  return absl::StrCat("model.layers.", stem.substr(0, end), ".", it->second, kind);
}

absl::StatusOr<text::GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata,
                                                        const std::string& name) {
  Keys keys(metadata, name);
  text::GgufVocabulary v;
  if (metadata.Find("tokenizer.ggml.tokens") == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": no vocabulary (metadata tokenizer.ggml.tokens is missing)"));
  }
  v.model = keys.String("tokenizer.ggml.model").value_or("");
  v.pre = keys.String("tokenizer.ggml.pre").value_or("default");
  v.tokens = keys.Strings("tokenizer.ggml.tokens").value_or(std::vector<std::string>());
  v.scores = keys.Floats("tokenizer.ggml.scores").value_or(std::vector<float>());
  v.types = keys.Ints("tokenizer.ggml.token_type").value_or(std::vector<int32_t>());
  v.merges = keys.Strings("tokenizer.ggml.merges").value_or(std::vector<std::string>());
  v.bos = keys.TokenId("tokenizer.ggml.bos_token_id");
  v.eos = keys.TokenId("tokenizer.ggml.eos_token_id");
  v.unk = keys.TokenId("tokenizer.ggml.unknown_token_id");
  v.pad = keys.TokenId("tokenizer.ggml.padding_token_id");
  v.add_bos = keys.Bool("tokenizer.ggml.add_bos_token");
  v.add_eos = keys.Bool("tokenizer.ggml.add_eos_token");
  v.add_space_prefix = keys.Bool("tokenizer.ggml.add_space_prefix");
  if (!keys.status().ok()) return keys.status();
  for (const auto& [key, size] :
       {std::pair("scores", v.scores.size()), std::pair("token_type", v.types.size())}) {
    if (size != 0 && size != v.tokens.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": metadata tokenizer.ggml.", key,
                                                     ": expected ", v.tokens.size(),
                                                     " elements, found ", size));
    }
  }
  return v;
}

}  // namespace finetuned::format
