#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace finetuned::format {

// Frequency scaling of rotary embeddings (config.json "rope_scaling" / "rope_parameters").
struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3, kDivisors } type = Type::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                     // llama3
  double high_freq_factor = 4.0;                    // llama3
  int64_t original_max_position_embeddings = 8192;  // llama3
  // kDivisors (GGUF's rope_freqs.weight): frequency i is divided by divisors[i]; head_dim / 2
  // values.
  std::vector<float> divisors;
};

// Shape of a decoder. Names follow Hugging Face's LlamaConfig.
struct ModelConfig {
  std::string architecture;  // "llama"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v (and o where present) carry biases
  bool mlp_bias = false;
  // How bitsandbytes stored the linears: "nf4", "fp4" or "int8"; empty: they are not quantized, or in a GGUF file's way.
  std::string stored_base;
  bool stored_double_quant = false;
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;

  int64_t q_size() const { return num_attention_heads * head_dim; }
  int64_t kv_size() const { return num_key_value_heads * head_dim; }
};

}  // namespace finetuned::format
