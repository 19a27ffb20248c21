// Rotary embeddings in config.json: "rope_parameters" of transformers 5, "rope_scaling" of transformers 4.
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

void ReadLlama3(HfFields& rope, ModelConfig* config) {
  RopeScaling& scaling = config->rope_scaling;
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.low_freq_factor = rope.Number("low_freq_factor", 1.0);
  scaling.high_freq_factor = rope.Number("high_freq_factor", 4.0);
  scaling.original_max_position_embeddings =
      rope.Int("original_max_position_embeddings", config->max_position_embeddings);
}

// Phi-3 states the context before the extension outside of the object. Source: modeling_rope_utils.py.
void ReadLongRope(HfFields& fields, HfFields& rope, ModelConfig* config) {
  RopeScaling& scaling = config->rope_scaling;
  scaling.type = RopeScaling::Type::kLongRope;
  scaling.divisors = rope.Numbers("short_factor");
  scaling.long_divisors = rope.Numbers("long_factor");
  const int64_t inside = rope.Int("original_max_position_embeddings", config->max_position_embeddings);
  const int64_t original = fields.Int("original_max_position_embeddings", inside);
  scaling.original_max_position_embeddings = original;
  if (original < 2) return rope.Invalid("original_max_position_embeddings: expected at least 2");
  const double context = static_cast<double>(original);
  const double factor = rope.Number("factor", static_cast<double>(config->max_position_embeddings) / context);
  const double suggested = factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(context));
  scaling.magnitude = rope.Number("attention_factor", suggested);
}

}  // namespace

void SetRotaryShare(double share, HfFields& fields, ModelConfig* config) {
  if (share == 1.0) return;
  const int64_t rotated = static_cast<int64_t>(static_cast<double>(config->head_dim) * share);
  if (!(share > 0.0 && share < 1.0) || rotated < 2 || rotated % 2 != 0) {
    return fields.Invalid(absl::StrCat("partial_rotary_factor: expected a share of head_dim ", config->head_dim,
                                       " that is an even number, found ", share));
  }
  config->rotary_dim = rotated;
}

void ReadRopeScaling(const nlohmann::json& object, const std::string& key, HfFields& fields, ModelConfig* config) {
  if (!object.is_object()) return fields.Invalid(absl::StrCat(key, ": expected an object"));
  HfFields rope(object, absl::StrCat(fields.name(), ": ", key));
  config->rope_theta = rope.Number("rope_theta", config->rope_theta);
  SetRotaryShare(rope.Number("partial_rotary_factor", fields.Number("partial_rotary_factor", 1.0)), rope, config);
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  RopeScaling& scaling = config->rope_scaling;
  if (type == "linear" || type == "llama3") {
    if (rope.Find("factor") == nullptr) rope.Invalid("factor is missing");
    scaling.factor = rope.Number("factor", 1.0);
  }
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
  } else if (type == "llama3") {
    ReadLlama3(rope, config);
  } else if (type == "longrope" || type == "su") {
    ReadLongRope(fields, rope, config);
  } else if (type != "default") {
    rope.Unsupported(absl::StrCat("rope type ", absl::Utf8SafeCHexEscape(type),
                                  " is not supported; supported: default, linear, llama3, longrope"));
  }
  fields.Adopt(rope.status());
}

}  // namespace finetuned::format
