#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace finetuned::format {

// Frequency scaling of rotary embeddings (config.json "rope_scaling" / "rope_parameters").
struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3, kDivisors, kLongRope } type = Type::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                     // llama3
  double high_freq_factor = 4.0;                    // llama3
  int64_t original_max_position_embeddings = 8192;  // llama3, LongRoPE: longer texts take long_divisors
  // kDivisors (GGUF's rope_freqs.weight), kLongRope: frequency i is divided by divisors[i]; rotary_size / 2 values.
  std::vector<float> divisors;
  std::vector<float> long_divisors;  // kLongRope
  double magnitude = 1.0;            // LongRoPE: cosine and sine are multiplied with it
};

// The parts that families are made of. The first of each is Llama's.
enum class NormKind {
  kRms,       // root mean square; normalized values are rounded to the compute type before the weight
  kRmsFloat,  // everything in float32, one rounding at the end (Gemma)
  kLayer,     // LayerNorm without bias, in float32 (Cohere)
};
enum class Activation { kSilu, kGeluTanh };  // of the gate
enum class BlockKind {
  kSequential,  // x + attention(norm(x)), then x + MLP(norm(x))
  kPostNorms,   // the same, and what attention and MLP add is normalized first (Gemma 2 and 3)
  kParallel,    // x + attention(norm(x)) + MLP(norm(x)), one norm (Cohere)
};
enum class QkNorm {
  kNone,
  kShared,   // every head of q and k is normalized with one weight [head_dim]
  kPerHead,  // with a weight of its own, [heads, head_dim]
};

// What may differ from layer to layer.
struct LayerKind {
  int64_t window = 0;       // a token sees so many tokens up to itself; 0: all
  bool rope = true;         // false: no positions (NoPE)
  bool local_rope = false;  // ModelConfig::local_rope_theta without scaling

  bool operator==(const LayerKind&) const = default;
};

// Shape and parts of a decoder. Names follow Hugging Face's LlamaConfig.
struct ModelConfig {
  std::string architecture;  // name of the family: "llama"
  // "language_model." where the decoder is the text part of a model with images: what transformers puts before "layers"
  // in names of modules. Tensors are called here as without it.
  std::string text_prefix;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;  // LayerNorm's, too
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v carry biases
  bool output_bias = false;     // o carries one
  bool mlp_bias = false;
  // How bitsandbytes stored the linears: "nf4", "fp4" or "int8"; empty: they are not quantized, or in a GGUF file's way.
  std::string stored_base;
  bool stored_double_quant = false;
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;

  NormKind norm = NormKind::kRms;
  bool norm_weight_plus_one = false;  // stored weights lack 1 (Gemma's checkpoints, not its GGUF files)
  Activation activation = Activation::kSilu;
  BlockKind block = BlockKind::kSequential;
  QkNorm qk_norm = QkNorm::kNone;
  bool fused_projections = false;   // q, k, v are one stored matrix (qkv_proj), gate and up another (gate_up_proj)
  int64_t rotary_dim = 0;           // the first so many elements of a head are rotated; 0: all
  bool rope_interleaved = false;    // pairs are neighbours instead of half a head apart
  double local_rope_theta = 0;      // of layers with local_rope
  double attention_scale = 0;       // scores are multiplied with it; 0: 1 / sqrt(head_dim)
  double attention_softcap = 0;     // scores become cap * tanh(score / cap); 0: they stay
  double logits_softcap = 0;
  double embedding_multiplier = 1;  // embeddings are multiplied with it, rounded to the compute type
  double residual_multiplier = 1;   // what attention and MLP add
  double logits_multiplier = 1;
  std::vector<LayerKind> layer_kinds;  // one per layer; empty: all are the default

  int64_t q_size() const { return num_attention_heads * head_dim; }
  int64_t kv_size() const { return num_key_value_heads * head_dim; }
  int64_t rotary_size() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
  LayerKind layer_kind(int64_t layer) const {
    return layer_kinds.empty() ? LayerKind{} : layer_kinds[static_cast<size_t>(layer)];
  }
  double score_scale() const {
    return attention_scale != 0 ? attention_scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
  }
  bool has_post_norms() const { return block == BlockKind::kPostNorms; }
};

}  // namespace finetuned::format
