// A family of models: what its configuration files say beside what all of them share. A new one is a file of this
// folder and a row in families.cc.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/format/families/gguf_keys.h"
#include "engine/format/families/hf_fields.h"
#include "engine/format/gguf_reader.h"
#include "engine/format/model_config.h"

namespace finetuned::format {

// A GGUF file while its configuration is read.
struct GgufFile {
  GgufKeys& keys;
  const GgufLayout& layout;
  std::span<const uint8_t> bytes;

  const GgufTensor* Find(absl::string_view name) const;
  // The numbers of an F32 tensor [count]; empty when there is none. Other types and shapes: keys.status().
  std::vector<float> Floats(absl::string_view name, int64_t count) const;
};

// What fields of config.json mean that are absent, where that differs from Llama.
struct HfDefaults {
  int64_t vocab_size = 0, num_attention_heads = 0;  // 0: must be there
  int64_t num_key_value_heads = 0;  // 0: as many as query heads
  int64_t head_dim = 0;             // 0: hidden size / heads
  int64_t max_position_embeddings = 2048;
  double norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tie_word_embeddings = false;
  std::optional<int32_t> bos_token_id = 1, eos_token_id = 2;
};

struct Family {
  const char* name;             // ModelConfig::architecture; of families that are one block the same
  const char* hf_architecture;  // first of "architectures" in config.json
  const char* model_type;       // "model_type"
  const char* gguf;             // general.architecture; null: not read from GGUF
  bool gguf_interleaves_rope;   // rows of q and k are in llama.cpp's order there
  HfDefaults defaults;
  // Read what the family adds, after everything that is shared; sizes are in range then.
  void (*read_hf)(HfFields& fields, ModelConfig* config);
  void (*read_gguf)(const GgufFile& gguf, ModelConfig* config);
};

std::span<const Family> Families();
// Names of the supported ones, for messages: "LlamaForCausalLM, MistralForCausalLM" and "llama, qwen2".
std::string SupportedHfArchitectures();
std::string SupportedGgufArchitectures();
// Null when there is none. model_type counts where architecture is empty.
const Family* FindHfFamily(absl::string_view architecture, absl::string_view model_type);
const Family* FindGgufFamily(absl::string_view architecture);

// Parts that several families read in the same way.

// "sliding_window" for every layer; null, 0, or at least max_position_embeddings: none.
void ReadWindowOfAllLayers(HfFields& fields, int64_t absent, ModelConfig* config);
// Layers by "layer_types"; without it, layer i is full when full(i). Layers that are not full have the window
// "sliding_window".
void ReadWindowByLayer(HfFields& fields, int64_t absent_window, bool (*full)(int64_t layer, int64_t pattern),
                       int64_t pattern, ModelConfig* config);
// Every pattern-th layer is full.
bool LastOfPatternIsFull(int64_t layer, int64_t pattern);
// The window of layers of a GGUF file: key .attention.sliding_window, all layers (pattern 0) or all but every
// pattern-th.
void ReadGgufWindow(const GgufFile& gguf, int64_t pattern, ModelConfig* config);
// Base, type and factors of `object` ("rope_scaling" or "rope_parameters"), named `key` in messages.
void ReadRopeScaling(const nlohmann::json& object, const std::string& key, HfFields& fields, ModelConfig* config);
// partial_rotary_factor.
void SetRotaryShare(double share, HfFields& fields, ModelConfig* config);

// The readers, one file each.
void ReadHfLlama(HfFields& fields, ModelConfig* config);  // biases by configuration
void ReadGgufLlama(const GgufFile& gguf, ModelConfig* config);
void ReadHfMistral(HfFields& fields, ModelConfig* config);
void ReadHfQwen2(HfFields& fields, ModelConfig* config);
void ReadGgufQwen2(const GgufFile& gguf, ModelConfig* config);
void ReadHfQwen3(HfFields& fields, ModelConfig* config);
void ReadGgufQwen3(const GgufFile& gguf, ModelConfig* config);
void ReadHfSmolLm3(HfFields& fields, ModelConfig* config);
void ReadGgufSmolLm3(const GgufFile& gguf, ModelConfig* config);
void ReadHfPhi3(HfFields& fields, ModelConfig* config);
void ReadGgufPhi3(const GgufFile& gguf, ModelConfig* config);
void ReadHfGranite(HfFields& fields, ModelConfig* config);
void ReadGgufGranite(const GgufFile& gguf, ModelConfig* config);
void ReadHfGemma(HfFields& fields, ModelConfig* config);
void ReadGgufGemma(const GgufFile& gguf, ModelConfig* config);
void ReadHfGemma2(HfFields& fields, ModelConfig* config);
void ReadGgufGemma2(const GgufFile& gguf, ModelConfig* config);
void ReadHfGemma3(HfFields& fields, ModelConfig* config);
void ReadGgufGemma3(const GgufFile& gguf, ModelConfig* config);
void ReadHfCohere(HfFields& fields, ModelConfig* config);
void ReadGgufCohere(const GgufFile& gguf, ModelConfig* config);
void ReadHfCohere2(HfFields& fields, ModelConfig* config);
void ReadGgufCohere2(const GgufFile& gguf, ModelConfig* config);

}  // namespace finetuned::format
