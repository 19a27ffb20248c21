#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/format/dequantize.h"
#include "engine/format/families/family.h"

namespace finetuned::format {
namespace {

constexpr HfDefaults kLlama;
constexpr HfDefaults kMistral = {.num_key_value_heads = 8, .max_position_embeddings = 4096 * 32};
constexpr HfDefaults kQwen2 = {.max_position_embeddings = 32768, .bos_token_id = {}, .eos_token_id = {}};
constexpr HfDefaults kQwen3 = {
    .head_dim = 128, .max_position_embeddings = 32768, .bos_token_id = {}, .eos_token_id = {}};
constexpr HfDefaults kSmolLm3 = {.num_key_value_heads = 4,
                                 .max_position_embeddings = 32768,
                                 .rope_theta = 2000000.0,
                                 .tie_word_embeddings = true,
                                 .bos_token_id = 128000,
                                 .eos_token_id = 128001};

constexpr HfDefaults kPhi3 = {.max_position_embeddings = 4096, .norm_eps = 1e-5, .eos_token_id = 32000};
constexpr HfDefaults kGemma = {.head_dim = 256,
                               .max_position_embeddings = 8192,
                               .tie_word_embeddings = true,
                               .bos_token_id = 2,
                               .eos_token_id = 1};
constexpr HfDefaults kGemma3 = {.vocab_size = 262208,
                                .num_attention_heads = 8,
                                .num_key_value_heads = 4,
                                .head_dim = 256,
                                .max_position_embeddings = 131072,
                                .rope_theta = 1000000.0,
                                .tie_word_embeddings = true,
                                .bos_token_id = 2,
                                .eos_token_id = 1};
constexpr HfDefaults kCohere = {.max_position_embeddings = 8192,
                                .rope_theta = 500000.0,
                                .tie_word_embeddings = true,
                                .bos_token_id = 5,
                                .eos_token_id = 255001};
constexpr HfDefaults kCohere2 = {
    .max_position_embeddings = 8192, .tie_word_embeddings = true, .bos_token_id = 5, .eos_token_id = 255001};

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", "llama", true, kLlama, ReadHfLlama, ReadGgufLlama},
    {"llama", "MistralForCausalLM", "mistral", nullptr, false, kMistral, ReadHfMistral, nullptr},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", "qwen2", false, kQwen2, ReadHfQwen2, ReadGgufQwen2},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", "qwen3", false, kQwen3, ReadHfQwen3, ReadGgufQwen3},
    {"smollm3", "SmolLM3ForCausalLM", "smollm3", "smollm3", true, kSmolLm3, ReadHfSmolLm3, ReadGgufSmolLm3},
    {"phi3", "Phi3ForCausalLM", "phi3", "phi3", false, kPhi3, ReadHfPhi3, ReadGgufPhi3},
    {"granite", "GraniteForCausalLM", "granite", "granite", true, kLlama, ReadHfGranite, ReadGgufGranite},
    {"gemma", "GemmaForCausalLM", "gemma", "gemma", false, kGemma, ReadHfGemma, ReadGgufGemma},
    {"gemma2", "Gemma2ForCausalLM", "gemma2", "gemma2", false, kGemma, ReadHfGemma2, ReadGgufGemma2},
    {"gemma3", "Gemma3ForCausalLM", "gemma3_text", "gemma3", false, kGemma3, ReadHfGemma3, ReadGgufGemma3},
    {"cohere", "CohereForCausalLM", "cohere", "command-r", false, kCohere, ReadHfCohere, ReadGgufCohere},
    {"cohere2", "Cohere2ForCausalLM", "cohere2", "cohere2", false, kCohere2, ReadHfCohere2, ReadGgufCohere2},
};

void SetWindow(int64_t window, int64_t layer, ModelConfig* config) {
  if (window <= 0 || window >= config->max_position_embeddings) return;
  config->layer_kinds.resize(static_cast<size_t>(config->num_hidden_layers));
  config->layer_kinds[static_cast<size_t>(layer)].window = window;
}

}  // namespace

const GgufTensor* GgufFile::Find(absl::string_view name) const {
  const auto it = std::find_if(layout.tensors.begin(), layout.tensors.end(),
                               [name](const GgufTensor& t) { return t.info.name == name; });
  return it == layout.tensors.end() ? nullptr : &*it;
}

std::vector<float> GgufFile::Floats(absl::string_view name, int64_t count) const {
  const GgufTensor* tensor = Find(name);
  if (tensor == nullptr) return {};
  const std::vector<int64_t> expected = {count};
  if (tensor->info.dtype != DType::kF32 || tensor->info.shape != expected) {
    keys.InvalidTensor(name, absl::StrCat("expected F32 ", ShapeString(expected), ", found ",
                                          DTypeName(tensor->info.dtype), " ", ShapeString(tensor->info.shape)));
    return {};
  }
  std::vector<float> numbers(static_cast<size_t>(count));
  const absl::Status status =
      DecodeToF32(DType::kF32, bytes.subspan(tensor->offset, tensor->info.bytes), std::span<float>(numbers));
  if (!status.ok()) keys.InvalidTensor(name, status.message());
  return numbers;
}

std::span<const Family> Families() { return kFamilies; }

std::string SupportedHfArchitectures() {
  return absl::StrJoin(kFamilies, ", ",
                       [](std::string* out, const Family& f) { out->append(f.hf_architecture); });
}

std::string SupportedGgufArchitectures() {
  std::string names;
  for (const Family& family : kFamilies) {
    if (family.gguf != nullptr) absl::StrAppend(&names, names.empty() ? "" : ", ", family.gguf);
  }
  return names;
}

const Family* FindHfFamily(absl::string_view architecture, absl::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (architecture.empty() ? model_type == family.model_type : architecture == family.hf_architecture) return &family;
  }
  return nullptr;
}

const Family* FindGgufFamily(absl::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (family.gguf != nullptr && architecture == family.gguf) return &family;
  }
  return nullptr;
}

void ReadWindowOfAllLayers(HfFields& fields, int64_t absent, ModelConfig* config) {
  const int64_t window = fields.IsNull("sliding_window") ? 0 : fields.Int("sliding_window", absent);
  for (int64_t i = 0; i < config->num_hidden_layers; ++i) SetWindow(window, i, config);
}

void ReadWindowByLayer(HfFields& fields, int64_t absent_window, bool (*full)(int64_t, int64_t), int64_t pattern,
                       ModelConfig* config) {
  const std::vector<std::string> types = fields.Strings("layer_types");
  const int64_t window = fields.IsNull("sliding_window") ? 0 : fields.Int("sliding_window", absent_window);
  if (!types.empty() && static_cast<int64_t>(types.size()) != config->num_hidden_layers) {
    return fields.Invalid(absl::StrCat("layer_types: expected ", config->num_hidden_layers, " of them, found ",
                                       types.size()));
  }
  for (int64_t i = 0; i < config->num_hidden_layers; ++i) {
    const std::string type = !types.empty() ? types[static_cast<size_t>(i)]
                             : full(i, pattern) ? "full_attention" : "sliding_attention";
    if (type == "sliding_attention") {
      SetWindow(window, i, config);
    } else if (type != "full_attention") {
      return fields.Unsupported(absl::StrCat("layer_types: ", type, " of layer ", i,
                                             " is not supported; supported: full_attention, sliding_attention"));
    }
  }
}

bool LastOfPatternIsFull(int64_t layer, int64_t pattern) { return pattern > 0 && (layer + 1) % pattern == 0; }

void ReadGgufWindow(const GgufFile& gguf, int64_t pattern, ModelConfig* config) {
  const int64_t window = gguf.keys.Int(".attention.sliding_window").value_or(0);
  for (int64_t i = 0; i < config->num_hidden_layers; ++i) {
    if (!LastOfPatternIsFull(i, pattern)) SetWindow(window, i, config);
  }
}

}  // namespace finetuned::format
