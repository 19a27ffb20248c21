#include "engine/format/peft_config.h"

#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "engine/format/hf_config.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

absl::Status Unsupported(const std::string& path, const std::string& key, const json& value) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", key, " is ", value.dump(),
                                                 ", which this version cannot continue"));
}

// Throws json::exception. Absent and null: none.
template <typename V>
void ReadPatterns(const json& config, const char* key, std::map<std::string, V>* out) {
  const json value = config.value(key, json());
  if (!value.is_null()) *out = value.get<std::map<std::string, V>>();
}

// A number, a list, or none.
void ReadLayers(const json& config, std::vector<int64_t>* out) {
  const json value = config.value("layers_to_transform", json());
  if (value.is_null()) return;
  *out = value.is_array() ? value.get<std::vector<int64_t>>() : std::vector<int64_t>{value.get<int64_t>()};
}

bool IsPlain(const json& value) {
  return value.is_null() || value == false || value == "none" ||
         ((value.is_object() || value.is_array()) && value.empty());
}

}  // namespace

absl::StatusOr<std::string> AdapterTensorName(const std::string& stored) {
  constexpr char kPrefix[] = "base_model.model.";
  absl::string_view name = stored;
  if (!absl::ConsumePrefix(&name, kPrefix)) {
    return absl::InvalidArgumentError(absl::StrCat("expected a name that begins with ", kPrefix));
  }
  if (absl::StrContains(name, ".original_module.")) return std::string();
  return absl::StrReplaceAll(TextTensorName(name), {{".base_layer.bias", ".bias"}, {".modules_to_save.", "."}});
}

absl::StatusOr<PeftConfig> ReadPeftConfig(const std::string& directory) {
  const std::string path = directory + "/adapter_config.json";
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << in.rdbuf();
  absl::StatusOr<json> config = ParseStrictJson(text.str(), path);
  if (!config.ok()) return config.status();
  if (!config->is_object() || config->value("peft_type", json()) != "LORA") {
    return absl::InvalidArgumentError(absl::StrCat(path, ": peft_type is not \"LORA\""));
  }
  for (const char* key : {"lora_bias", "target_parameters", "trainable_token_indices"}) {
    if (config->contains(key) && !IsPlain((*config)[key])) {
      return Unsupported(path, key, (*config)[key]);
    }
  }
  PeftConfig out;
  try {
    out.rank = config->value("r", out.rank);
    out.alpha = config->value("lora_alpha", out.alpha);
    out.dropout = config->value("lora_dropout", 0.0);
    out.use_rslora = config->value("use_rslora", false);
    out.use_dora = config->value("use_dora", false);
    out.bias = config->value("bias", out.bias);
    ReadPatterns(*config, "rank_pattern", &out.rank_pattern);
    ReadPatterns(*config, "alpha_pattern", &out.alpha_pattern);
    ReadLayers(*config, &out.layers);
    const json saved = config->value("modules_to_save", json());
    if (!saved.is_null()) out.modules_to_save = saved.get<std::vector<std::string>>();
    const json targets = config->value("target_modules", json::array());
    if (targets.is_string() && targets != "all-linear") {
      return Unsupported(path, "target_modules", targets);
    }
    out.target_modules = targets.is_string() ? std::vector<std::string>{targets.get<std::string>()}
                                             : targets.get<std::vector<std::string>>();
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
  for (const std::string& module : out.modules_to_save) {
    if (module != "embed_tokens" && module != "lm_head") return Unsupported(path, "modules_to_save", module);
  }
  if (out.bias != "none" && out.bias != "all" && out.bias != "lora_only") return Unsupported(path, "bias", out.bias);
  if (out.rank <= 0) return Unsupported(path, "r", out.rank);
  return out;
}

}  // namespace finetuned::format
