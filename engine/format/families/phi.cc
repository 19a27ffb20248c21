// Phi 3, 3.5 and 4: q, k, v stored as one matrix, gate and up as another; LongRoPE; mini models rotate a share of each
// head.
#include "absl/strings/str_cat.h"
#include "engine/format/families/family.h"

namespace finetuned::format {

void ReadHfPhi3(HfFields& fields, ModelConfig* config) {
  config->fused_projections = true;
  ReadWindowOfAllLayers(fields, 0, config);
}

void ReadGgufPhi3(const GgufFile& gguf, ModelConfig* config) {
  config->fused_projections = true;
  config->attention_bias = config->mlp_bias = false;
  const int64_t rotated = gguf.keys.Int(".rope.dimension_count").value_or(config->head_dim);
  if (rotated != config->head_dim) config->rotary_dim = rotated;
  if (rotated < 2 || rotated > config->head_dim || rotated % 2 != 0) {
    return gguf.keys.Invalid(".rope.dimension_count", absl::StrCat("expected an even number up to ", config->head_dim,
                                                                   ", found ", rotated));
  }
  ReadGgufWindow(gguf, /*pattern=*/0, config);
  RopeScaling& scaling = config->rope_scaling;
  scaling.divisors = gguf.Floats("rope_factors_short.weight", rotated / 2);
  scaling.long_divisors = gguf.Floats("rope_factors_long.weight", rotated / 2);
  if (scaling.divisors.empty() && scaling.long_divisors.empty()) return;
  scaling.type = RopeScaling::Type::kLongRope;
  scaling.original_max_position_embeddings =
      gguf.keys.Int(".rope.scaling.original_context_length").value_or(config->max_position_embeddings);
  scaling.magnitude = gguf.keys.Number(".rope.scaling.attn_factor").value_or(1.0);
}

}  // namespace finetuned::format
