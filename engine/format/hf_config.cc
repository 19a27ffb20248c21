#include "engine/format/hf_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/format/families/family.h"
#include "engine/format/model_layout.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

constexpr char kWithImages[] = "Gemma3ForConditionalGeneration";
constexpr char kTextPrefix[] = "language_model.";

absl::StatusOr<const Family*> ReadFamily(HfFields& fields) {
  std::string architecture;
  const json* list = fields.Find("architectures");
  if (list != nullptr && list->is_array() && !list->empty() && list->front().is_string()) {
    architecture = list->front().get<std::string>();
  }
  const std::string type = fields.String("model_type", "");
  if (architecture.empty() && type.empty()) fields.Invalid("neither architectures nor model_type is there");
  if (!fields.status().ok()) return fields.status();
  const Family* family = FindHfFamily(architecture, type);
  if (family == nullptr) {
    fields.Unsupported(absl::StrCat("architecture ",
                                    absl::Utf8SafeCHexEscape(architecture.empty() ? type : architecture),
                                    " is not supported; supported: ", SupportedHfArchitectures()));
    return fields.status();
  }
  return family;
}

void CheckVariant(HfFields& fields, const ModelConfig& config) {
  if (config.rotary_dim > 0 && config.architecture != "phi3") {
    fields.Unsupported("partial_rotary_factor: expected 1");
  }
  const bool gelu = config.activation == Activation::kGeluTanh;
  const std::string activation = fields.String("hidden_act", gelu ? "gelu_pytorch_tanh" : "silu");
  // Early files of Gemma say gelu and mean its approximation.
  if (gelu ? activation != "gelu_pytorch_tanh" && activation != "gelu" : activation != "silu") {
    fields.Unsupported(absl::StrCat("hidden_act: expected ", gelu ? "gelu_pytorch_tanh" : "silu", ", found ",
                                    absl::Utf8SafeCHexEscape(activation)));
  }
}

// quantization_config, of bitsandbytes alone.
void ReadQuantization(HfFields& fields, ModelConfig* config) {
  const json* stored = fields.Find("quantization_config");
  if (stored == nullptr) return;
  HfFields inner(*stored, fields.name() + ": quantization_config");
  const std::string method = inner.String("quant_method", "");
  const bool four_bit = inner.Bool("load_in_4bit", false), eight_bit = inner.Bool("load_in_8bit", false);
  const std::string type = inner.String("bnb_4bit_quant_type", "fp4");
  if (method != "bitsandbytes" || four_bit == eight_bit || (four_bit && type != "nf4" && type != "fp4")) {
    inner.Unsupported(absl::StrCat("quant_method \"", absl::Utf8SafeCHexEscape(method),
                                   "\": of quantized checkpoints, 4-bit (nf4, fp4) and 8-bit ones of "
                                   "bitsandbytes are loaded; use the original bf16, f16 or f32 weights"));
  }
  config->stored_base = four_bit ? type : "int8";
  config->stored_double_quant = four_bit && inner.Bool("bnb_4bit_use_double_quant", false);
  fields.Adopt(inner.status());
}

// Fills rope_theta and rope_scaling from "rope_parameters" (transformers 5) or "rope_theta" and "rope_scaling"
// (transformers 4). Parameters by kind of layer are left to the family.
void ReadRope(HfFields& fields, const HfDefaults& defaults, ModelConfig* config) {
  config->rope_theta = fields.Number("rope_theta", defaults.rope_theta);
  const char* key = fields.Find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const json* object = fields.Find(key);
  if (object == nullptr) return SetRotaryShare(fields.Number("partial_rotary_factor", 1.0), fields, config);
  if (!object->is_object()) return fields.Invalid(absl::StrCat(key, ": expected an object"));
  if (object->contains("full_attention")) return;
  ReadRopeScaling(*object, key, fields, config);
}

void ReadSizes(HfFields& fields, const HfDefaults& defaults, ModelConfig* config) {
  // Gemma 3's early files leave out what is the default.
  const auto required = [&](const char* key, int64_t absent) {
    return absent > 0 ? fields.Int(key, absent) : fields.RequiredInt(key);
  };
  config->vocab_size = required("vocab_size", defaults.vocab_size);
  config->hidden_size = fields.RequiredInt("hidden_size");
  config->intermediate_size = fields.RequiredInt("intermediate_size");
  config->num_hidden_layers = fields.RequiredInt("num_hidden_layers");
  config->num_attention_heads = required("num_attention_heads", defaults.num_attention_heads);
  const int64_t heads = config->num_attention_heads;
  const int64_t kv_heads = defaults.num_key_value_heads > 0 ? defaults.num_key_value_heads : heads;
  config->num_key_value_heads =
      fields.IsNull("num_key_value_heads") ? heads : fields.Int("num_key_value_heads", kv_heads);
  const int64_t head_dim = defaults.head_dim > 0 ? defaults.head_dim : heads > 0 ? config->hidden_size / heads : 0;
  config->head_dim = fields.Int("head_dim", head_dim);
  config->max_position_embeddings = fields.Int("max_position_embeddings", defaults.max_position_embeddings);
  config->rms_norm_eps = fields.Number("rms_norm_eps", defaults.norm_eps);
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", defaults.tie_word_embeddings);
}

// null means no such token; absent the family's default.
void ReadTokenIds(HfFields& fields, const HfDefaults& defaults, ModelConfig* config) {
  if (!fields.IsNull("bos_token_id")) {
    const std::vector<int32_t> bos = fields.TokenIds("bos_token_id");
    config->bos_token_id = bos.empty() ? defaults.bos_token_id : bos.front();
  }
  config->eos_token_ids = fields.TokenIds("eos_token_id");
  if (fields.Find("eos_token_id") == nullptr && !fields.IsNull("eos_token_id") && defaults.eos_token_id) {
    config->eos_token_ids = {*defaults.eos_token_id};
  }
}

absl::Status ReadGenerationConfig(absl::string_view text, const std::string& name,
                                  ModelConfig* config) {
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<json> document = ParseStrictJson(text, name);
  if (!document.ok()) return document.status();
  if (!document->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a JSON object"));
  }
  HfFields fields(*document, name);
  std::vector<int32_t> eos = fields.TokenIds("eos_token_id");
  if (!eos.empty()) config->eos_token_ids = std::move(eos);
  return fields.status();
}

}  // namespace

absl::StatusOr<std::optional<json>> TextPartOfConfig(const json& config, const std::string& name) {
  HfFields fields(config, name);
  const json* list = fields.Find("architectures");
  const bool named = list != nullptr && list->is_array() && !list->empty() ? list->front() == kWithImages
                                                                         : fields.String("model_type", "") == "gemma3";
  if (!named) return std::nullopt;
  const json* text = fields.Find("text_config");
  if (text == nullptr || !text->is_object()) {
    fields.Invalid("text_config: expected an object");
    return fields.status();
  }
  json out = *text;
  out["architectures"] = {"Gemma3ForCausalLM"};
  out["model_type"] = "gemma3_text";
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config", "dtype",
                          "torch_dtype"}) {
    if (fields.Find(key) != nullptr) out[key] = config[key];
  }
  return out;
}

std::string TextTensorName(absl::string_view name) {
  if (absl::ConsumePrefix(&name, "model.language_model.")) return absl::StrCat("model.", name);
  absl::ConsumePrefix(&name, "language_model.");
  return std::string(name);
}

bool IsVisionTensor(absl::string_view name) {
  absl::ConsumePrefix(&name, "model.");
  return absl::StartsWith(name, "vision_tower.") || absl::StartsWith(name, "multi_modal_projector.");
}

absl::StatusOr<ModelConfig> ParseHfConfig(absl::string_view config_json,
                                          absl::string_view generation_config_json,
                                          const std::string& folder) {
  const std::string name = folder + "/config.json";
  const absl::StatusOr<json> document = ParseStrictJson(config_json, name);
  if (!document.ok()) return document.status();
  if (!document->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a JSON object"));
  }
  const absl::StatusOr<std::optional<json>> text = TextPartOfConfig(*document, name);
  if (!text.ok()) return text.status();
  HfFields fields(text->has_value() ? **text : *document, text->has_value() ? name + ": text_config" : name);
  const absl::StatusOr<const Family*> family = ReadFamily(fields);
  if (!family.ok()) return family.status();

  ModelConfig config;
  config.architecture = (*family)->name;
  if (text->has_value()) config.text_prefix = kTextPrefix;
  ReadSizes(fields, (*family)->defaults, &config);
  if (!fields.status().ok()) return fields.status();
  if (absl::Status s = CheckConfig(config, name); !s.ok()) return s;
  ReadRope(fields, (*family)->defaults, &config);
  (*family)->read_hf(fields, &config);
  CheckVariant(fields, config);
  ReadQuantization(fields, &config);
  ReadTokenIds(fields, (*family)->defaults, &config);
  for (const absl::Status& status :
       {fields.status(),
        ReadGenerationConfig(generation_config_json, folder + "/generation_config.json", &config),
        CheckConfig(config, name)}) {
    if (!status.ok()) return status;
  }
  return config;
}

}  // namespace finetuned::format
