#include "engine/plan/shapes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace finetuned::plan {
namespace {

struct Row {
  const char* name;
  int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions;
  bool tied = false, qkv_bias = false;
};

constexpr Row kRows[] = {
    {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, true},
    {"smollm2-360m", 49152, 960, 2560, 32, 15, 5, 64, 8192, true},
    {"smollm2-1.7b", 49152, 2048, 8192, 24, 32, 32, 64, 8192, true},
    {"llama-3.2-1b", 128256, 2048, 8192, 16, 32, 8, 64, 131072, true},
    {"llama-3.2-3b", 128256, 3072, 8192, 28, 24, 8, 128, 131072, true},
    {"llama-2-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096},
    {"mistral-7b", 32768, 4096, 14336, 32, 32, 8, 128, 32768},
    {"qwen2.5-7b", 152064, 3584, 18944, 28, 28, 4, 128, 32768, false, true},
    {"llama-3.1-8b", 128256, 4096, 14336, 32, 32, 8, 128, 131072},
    {"llama-2-13b", 32000, 5120, 13824, 40, 40, 40, 128, 4096},
    {"qwen2.5-14b", 152064, 5120, 13824, 48, 40, 8, 128, 32768, false, true},
    {"internlm2-20b", 92544, 6144, 16384, 48, 48, 8, 128, 32768},
    {"qwen2.5-32b", 152064, 5120, 27648, 64, 40, 8, 128, 32768, false, true},
    {"codellama-34b", 32000, 8192, 22016, 48, 64, 8, 128, 16384},
    {"llama-3.1-70b", 128256, 8192, 28672, 80, 64, 8, 128, 131072},
};

}  // namespace

absl::StatusOr<format::ModelConfig> FindShape(const std::string& name) {
  for (const Row& row : kRows) {
    if (name != row.name) continue;
    format::ModelConfig c;
    c.architecture = "llama";
    c.vocab_size = row.vocab;
    c.hidden_size = row.hidden;
    c.intermediate_size = row.intermediate;
    c.num_hidden_layers = row.layers;
    c.num_attention_heads = row.heads;
    c.num_key_value_heads = row.kv_heads;
    c.head_dim = row.head_dim;
    c.max_position_embeddings = row.positions;
    c.tie_word_embeddings = row.tied;
    c.attention_bias = row.qkv_bias;  // Qwen 2.5
    return c;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no shape \"", name, "\"; known: ", absl::StrJoin(ShapeNames(), ", ")));
}

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.emplace_back(row.name);
  return names;
}

}  // namespace finetuned::plan
