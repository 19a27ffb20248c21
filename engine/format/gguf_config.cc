#include "engine/format/gguf_config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/format/families/family.h"
#include "engine/format/model_layout.h"

namespace finetuned::format {
namespace {

// Keys of variants of the architecture that are not built here.
void RefuseVariants(GgufKeys& keys, const ModelConfig& config) {
  if (keys.Int(".expert_count").value_or(0) > 0) {
    keys.Unsupported(".expert_count", "is not 0: mixtures of experts are not supported");
  }
  const int64_t rotary = keys.Int(".rope.dimension_count").value_or(config.rotary_size());
  if (rotary != config.rotary_size()) {
    keys.Unsupported(".rope.dimension_count", absl::StrCat("expected ", config.rotary_size(), ", found ", rotary));
  }
  const int64_t value_length = keys.Int(".attention.value_length").value_or(config.head_dim);
  if (value_length != config.head_dim) {
    keys.Unsupported(".attention.value_length",
                     absl::StrCat("expected ", config.head_dim, ", found ", value_length));
  }
}

void ReadRopeScaling(GgufKeys& keys, RopeScaling* scaling) {
  const std::string type = keys.String(".rope.scaling.type").value_or("none");
  if (type == "linear") {
    scaling->type = RopeScaling::Type::kLinear;
    scaling->factor = keys.Number(".rope.scaling.factor").value_or(1.0);
  } else if (type != "none" && type != "longrope") {  // the family's tensors tell the latter
    keys.Unsupported(
        ".rope.scaling.type",
        absl::StrCat(absl::Utf8SafeCHexEscape(type), " is not supported; supported: none, linear, longrope"));
  } else if (const std::optional<double> scale = keys.Number(".rope.scale_linear")) {
    scaling->type = RopeScaling::Type::kLinear;
    scaling->factor = *scale;
  }
}

void ReadSizes(GgufKeys& keys, ModelConfig* config) {
  config->hidden_size = keys.RequiredInt(".embedding_length");
  config->intermediate_size = keys.RequiredInt(".feed_forward_length");
  config->num_hidden_layers = keys.RequiredInt(".block_count");
  config->num_attention_heads = keys.RequiredInt(".attention.head_count");
  config->num_key_value_heads = keys.Int(".attention.head_count_kv").value_or(config->num_attention_heads);
  const int64_t heads = config->num_attention_heads;
  config->head_dim = keys.Int(".attention.key_length").value_or(heads > 0 ? config->hidden_size / heads : 0);
  config->max_position_embeddings = keys.RequiredInt(".context_length");
  const std::optional<double> eps = keys.Number(".attention.layer_norm_rms_epsilon");
  // Stored as f32: 1e-5 comes back as 9.99999975e-06, which is the same float again.
  config->rms_norm_eps = eps.value_or(1e-5);
  config->rope_theta = keys.Number(".rope.freq_base").value_or(10000.0);
}

void ReadTokenIds(GgufKeys& keys, ModelConfig* config) {
  config->bos_token_id = keys.TokenId("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const std::optional<int32_t> id = keys.TokenId(key);
    std::vector<int32_t>& eos = config->eos_token_ids;
    if (id && std::find(eos.begin(), eos.end(), *id) == eos.end()) eos.push_back(*id);
  }
}

// What the tensors tell.
absl::Status ReadTensors(const GgufFile& gguf, ModelConfig* config) {
  const GgufTensor* embedding = gguf.Find("token_embd.weight");
  if (embedding == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(gguf.keys.name(), ": tensor token_embd.weight is missing"));
  }
  config->vocab_size = embedding->info.shape[0];
  config->tie_word_embeddings = gguf.Find("output.weight") == nullptr;
  config->attention_bias = gguf.Find("blk.0.attn_q.bias") != nullptr;
  config->output_bias = gguf.Find("blk.0.attn_output.bias") != nullptr;
  config->mlp_bias = gguf.Find("blk.0.ffn_gate.bias") != nullptr;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> GgufConfig(const GgufLayout& layout, std::span<const uint8_t> file,
                                       const std::string& name) {
  GgufKeys general(layout.metadata, name);
  const std::string architecture = general.String("general.architecture").value_or("");
  if (!general.status().ok()) return general.status();
  const Family* family = FindGgufFamily(architecture);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat(name, ": metadata general.architecture: \"",
                                                 absl::Utf8SafeCHexEscape(architecture),
                                                 "\" is not supported; supported: ", SupportedGgufArchitectures()));
  }
  GgufKeys keys(layout.metadata, name, architecture);
  const GgufFile gguf = {keys, layout, file};
  ModelConfig config;
  config.architecture = family->name;
  ReadSizes(keys, &config);
  ReadTokenIds(keys, &config);
  ReadRopeScaling(keys, &config.rope_scaling);
  if (!keys.status().ok()) return keys.status();
  if (absl::Status s = ReadTensors(gguf, &config); !s.ok()) return s;
  if (absl::Status s = CheckConfig(config, name); !s.ok()) return s;
  family->read_gguf(gguf, &config);
  RefuseVariants(keys, config);
  if (!keys.status().ok()) return keys.status();
  if (absl::Status s = CheckConfig(config, name); !s.ok()) return s;
  return config;
}

std::string GgufArchitecture(const ModelConfig& config) {
  for (const Family& family : Families()) {
    if (config.architecture == family.name && family.gguf != nullptr) return family.gguf;
  }
  return "";
}

bool GgufInterleavesRope(const ModelConfig& config) {
  for (const Family& family : Families()) {
    if (config.architecture == family.name) return family.gguf_interleaves_rope;
  }
  return false;
}

absl::StatusOr<text::GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata,
                                                        const std::string& name) {
  GgufKeys keys(metadata, name);
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
