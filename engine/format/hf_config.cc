#include "engine/format/hf_config.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/format/model_layout.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

constexpr char kSupported[] = "LlamaForCausalLM and MistralForCausalLM (without sliding window)";

// Reads fields of one JSON object. The first field of a wrong type is kept as status(); getters
// then answer their default. null counts as absent.
class Fields {
 public:
  Fields(const json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const absl::Status& status() const { return status_; }
  const std::string& name() const { return name_; }

  const json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  bool IsNull(const char* key) const { return object_.contains(key) && object_[key].is_null(); }

  int64_t Int(const char* key, int64_t absent) {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() &&
         value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})) {
      Wrong(key, "an integer", *value);
      return absent;
    }
    return value->get<int64_t>();
  }

  int64_t RequiredInt(const char* key) {
    if (Find(key) == nullptr && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": ", key, " is missing"));
    }
    return Int(key, 0);
  }

  double Number(const char* key, double absent) {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_number()) {
      Wrong(key, "a number", *value);
      return absent;
    }
    return value->get<double>();
  }

  bool Bool(const char* key, bool absent) {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) {
      Wrong(key, "true or false", *value);
      return absent;
    }
    return value->get<bool>();
  }

  std::string String(const char* key, std::string absent) {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_string()) {
      Wrong(key, "a string", *value);
      return absent;
    }
    return value->get<std::string>();
  }

  // A token id or a list of them.
  std::vector<int32_t> TokenIds(const char* key) {
    const json* value = Find(key);
    std::vector<int32_t> ids;
    if (value == nullptr) return ids;
    const json list = value->is_array() ? *value : json::array({*value});
    for (const json& item : list) {
      if (!item.is_number_integer() || item.get<int64_t>() < 0 ||
          item.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
        Wrong(key, "a token id or a list of token ids", *value);
        return {};
      }
      ids.push_back(item.get<int32_t>());
    }
    return ids;
  }

 private:
  void Wrong(const char* key, const char* expected, const json& found) {
    if (!status_.ok()) return;
    std::string text = found.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 80) + "...";
    status_ = absl::InvalidArgumentError(
        absl::StrCat(name_, ": ", key, ": expected ", expected, ", found ", text));
  }

  const json& object_;
  const std::string name_;
  absl::Status status_;
};

absl::Status Unsupported(const std::string& name, absl::string_view text) {
  return absl::UnimplementedError(absl::StrCat(name, ": ", text));
}

// "llama" or "mistral".
absl::StatusOr<std::string> ModelType(Fields& fields) {
  std::string architecture;
  const json* list = fields.Find("architectures");
  if (list != nullptr && list->is_array() && !list->empty() && list->front().is_string()) {
    architecture = list->front().get<std::string>();
  }
  const std::string type = fields.String("model_type", "");
  if (!fields.status().ok()) return fields.status();
  if (architecture.empty() && type.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.name(), ": neither architectures nor model_type is there"));
  }
  if (architecture == "LlamaForCausalLM" || (architecture.empty() && type == "llama")) {
    return "llama";
  }
  if (architecture == "MistralForCausalLM" || (architecture.empty() && type == "mistral")) {
    return "mistral";
  }
  return Unsupported(
      fields.name(),
      absl::StrCat("architecture ",
                   absl::Utf8SafeCHexEscape(architecture.empty() ? type : architecture),
                   " is not supported; supported: ", kSupported));
}

absl::Status CheckVariant(Fields& fields, bool mistral, int64_t max_position) {
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu") {
    return Unsupported(fields.name(), absl::StrCat("hidden_act: expected silu, found ",
                                                   absl::Utf8SafeCHexEscape(activation)));
  }
  if (mistral) {
    // MistralConfig: absent means 4096, null means none.
    const int64_t window = fields.IsNull("sliding_window") ? 0 : fields.Int("sliding_window", 4096);
    if (window > 0 && window < max_position) {
      return Unsupported(fields.name(), absl::StrCat("sliding_window ", window,
                                                     " is not supported; expected null"));
    }
  }
  return fields.status();
}

// quantization_config, of bitsandbytes alone.
absl::Status ReadQuantization(Fields& fields, ModelConfig* config) {
  const json* stored = fields.Find("quantization_config");
  if (stored == nullptr) return absl::OkStatus();
  Fields inner(*stored, fields.name() + ": quantization_config");
  const std::string method = inner.String("quant_method", "");
  const bool four_bit = inner.Bool("load_in_4bit", false), eight_bit = inner.Bool("load_in_8bit", false);
  const std::string type = inner.String("bnb_4bit_quant_type", "fp4");
  if (!inner.status().ok()) return inner.status();
  if (method != "bitsandbytes" || four_bit == eight_bit || (four_bit && type != "nf4" && type != "fp4")) {
    return Unsupported(inner.name(), absl::StrCat("quant_method \"", absl::Utf8SafeCHexEscape(method),
                                                  "\": of quantized checkpoints, 4-bit (nf4, fp4) and 8-bit ones of "
                                                  "bitsandbytes are loaded; use the original bf16, f16 or f32 weights"));
  }
  config->stored_base = four_bit ? type : "int8";
  config->stored_double_quant = four_bit && inner.Bool("bnb_4bit_use_double_quant", false);
  return inner.status();
}

// Fills rope_theta and rope_scaling from "rope_parameters" (transformers 5) or "rope_theta" and
// "rope_scaling" (transformers 4).
absl::Status ReadRope(Fields& fields, ModelConfig* config) {
  config->rope_theta = fields.Number("rope_theta", 10000.0);
  double partial = fields.Number("partial_rotary_factor", 1.0);
  const char* key = fields.Find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const json* object = fields.Find(key);
  if (object != nullptr) {
    if (!object->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(fields.name(), ": ", key, ": expected an object"));
    }
    Fields rope(*object, absl::StrCat(fields.name(), ": ", key));
    config->rope_theta = rope.Number("rope_theta", config->rope_theta);
    partial = rope.Number("partial_rotary_factor", partial);
    const std::string type = rope.String("rope_type", rope.String("type", "default"));
    RopeScaling& scaling = config->rope_scaling;
    if (type == "linear" || type == "llama3") {
      if (rope.Find("factor") == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat(rope.name(), ": factor is missing"));
      }
      scaling.factor = rope.Number("factor", 1.0);
    }
    if (type == "linear") {
      scaling.type = RopeScaling::Type::kLinear;
    } else if (type == "llama3") {
      scaling.type = RopeScaling::Type::kLlama3;
      scaling.low_freq_factor = rope.Number("low_freq_factor", 1.0);
      scaling.high_freq_factor = rope.Number("high_freq_factor", 4.0);
      scaling.original_max_position_embeddings =
          rope.Int("original_max_position_embeddings", config->max_position_embeddings);
    } else if (type != "default") {
      return Unsupported(rope.name(), absl::StrCat("rope type ", absl::Utf8SafeCHexEscape(type),
                                                   " is not supported; supported: default, linear, "
                                                   "llama3"));
    }
    if (!rope.status().ok()) return rope.status();
  }
  if (partial != 1.0) {
    return Unsupported(fields.name(),
                       absl::StrCat("partial_rotary_factor: expected 1, found ", partial));
  }
  return fields.status();
}

void ReadSizes(Fields& fields, bool mistral, ModelConfig* config) {
  config->vocab_size = fields.RequiredInt("vocab_size");
  config->hidden_size = fields.RequiredInt("hidden_size");
  config->intermediate_size = fields.RequiredInt("intermediate_size");
  config->num_hidden_layers = fields.RequiredInt("num_hidden_layers");
  config->num_attention_heads = fields.RequiredInt("num_attention_heads");
  const int64_t heads = config->num_attention_heads;
  config->num_key_value_heads = fields.IsNull("num_key_value_heads")
                                    ? heads
                                    : fields.Int("num_key_value_heads", mistral ? 8 : heads);
  config->head_dim = fields.Int("head_dim", heads > 0 ? config->hidden_size / heads : 0);
  config->max_position_embeddings =
      fields.Int("max_position_embeddings", mistral ? 4096 * 32 : 2048);
  config->rms_norm_eps = fields.Number("rms_norm_eps", 1e-6);
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  config->attention_bias = !mistral && fields.Bool("attention_bias", false);
  config->mlp_bias = !mistral && fields.Bool("mlp_bias", false);
}

// null means no such token; absent means LlamaConfig's 1 and 2.
absl::Status ReadTokenIds(Fields& fields, ModelConfig* config) {
  if (!fields.IsNull("bos_token_id")) {
    const std::vector<int32_t> bos = fields.TokenIds("bos_token_id");
    config->bos_token_id = bos.empty() ? 1 : bos.front();
  }
  config->eos_token_ids = fields.TokenIds("eos_token_id");
  if (fields.Find("eos_token_id") == nullptr && !fields.IsNull("eos_token_id")) {
    config->eos_token_ids = {2};
  }
  return fields.status();
}

absl::Status ReadGenerationConfig(absl::string_view text, const std::string& name,
                                  ModelConfig* config) {
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<json> document = ParseStrictJson(text, name);
  if (!document.ok()) return document.status();
  if (!document->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a JSON object"));
  }
  Fields fields(*document, name);
  std::vector<int32_t> eos = fields.TokenIds("eos_token_id");
  if (!eos.empty()) config->eos_token_ids = std::move(eos);
  return fields.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_json,
                                          absl::string_view generation_config_json,
                                          const std::string& folder) {
  const std::string name = folder + "/config.json";
  const absl::StatusOr<json> document = ParseStrictJson(config_json, name);
  if (!document.ok()) return document.status();
  if (!document->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a JSON object"));
  }
  Fields fields(*document, name);
  const absl::StatusOr<std::string> type = ModelType(fields);
  if (!type.ok()) return type.status();
  const bool mistral = *type == "mistral";

  ModelConfig config;
  config.architecture = "llama";
  ReadSizes(fields, mistral, &config);
  for (const absl::Status& status :
       {fields.status(), CheckVariant(fields, mistral, config.max_position_embeddings),
        ReadRope(fields, &config), ReadQuantization(fields, &config), ReadTokenIds(fields, &config),
        ReadGenerationConfig(generation_config_json, folder + "/generation_config.json", &config),
        CheckConfig(config, name)}) {
    if (!status.ok()) return status;
  }
  return config;
}

}  // namespace finetuned::format
