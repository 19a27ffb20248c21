#include "tests/bench/engine/random_model.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

namespace finetuned::bench {
namespace {

format::ModelConfig Llama(int64_t vocab, int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads,
                          int64_t kv_heads, int64_t head_dim, bool tied) {
  format::ModelConfig c;
  c.architecture = "llama";
  c.vocab_size = vocab;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.num_hidden_layers = layers;
  c.num_attention_heads = heads;
  c.num_key_value_heads = kv_heads;
  c.head_dim = head_dim;
  c.max_position_embeddings = 1 << 20;
  c.tie_word_embeddings = tied;
  return c;
}

at::Tensor Normal(at::IntArrayRef shape, const model::LoadOptions& o) {
  return at::randn(shape, at::device(o.device).dtype(o.dtype)).mul_(0.02);
}

model::FrozenLinear Linear(std::vector<int64_t> rows, int64_t in, const model::LoadOptions& o) {
  if (!o.nf4) {
    int64_t all = 0;
    for (int64_t r : rows) all += r;
    return model::FrozenLinear::Dense(Normal({all, in}, o), {});
  }
  std::vector<kernels::Nf4Tensor> parts;
  for (int64_t r : rows) parts.push_back(kernels::Nf4Quantize(Normal({r, in}, o), /*double_quant=*/true));
  return model::FrozenLinear::Nf4(std::move(parts), in, {});
}

}  // namespace

format::ModelConfig Shape(const std::string& name) {
  static const std::map<std::string, format::ModelConfig> shapes = {
      {"smollm2-135m", Llama(49152, 576, 1536, 30, 9, 3, 64, true)},
      {"llama-3.2-1b", Llama(128256, 2048, 8192, 16, 32, 8, 64, true)},
      {"llama-2-7b", Llama(32000, 4096, 11008, 32, 32, 32, 128, false)},
      {"llama-3.1-8b", Llama(128256, 4096, 14336, 32, 32, 8, 128, false)},
      {"llama-2-13b", Llama(32000, 5120, 13824, 40, 40, 40, 128, false)},
  };
  const auto found = shapes.find(name);
  if (found != shapes.end()) return found->second;
  std::fprintf(stderr, "unknown shape %s; known:", name.c_str());
  for (const auto& [known, config] : shapes) std::fprintf(stderr, " %s", known.c_str());
  std::fprintf(stderr, "\n");
  std::exit(64);
}

std::shared_ptr<model::BaseModel> RandomModel(const format::ModelConfig& config, const model::LoadOptions& options) {
  auto base = std::make_shared<model::BaseModel>();
  base->config = config;
  base->options = options;
  base->fingerprint = "random";
  base->embed_VD = model::PlaceEmbedding(Normal({config.vocab_size, config.hidden_size}, options), config,
                                         options.device);
  base->lm_head_VD =
      config.tie_word_embeddings ? base->embed_VD : Normal({config.vocab_size, config.hidden_size}, options);
  const auto ones = [&] { return at::ones({config.hidden_size}, at::device(options.device).dtype(options.dtype)); };
  base->final_norm_D = ones();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    model::LayerWeights layer;
    layer.input_norm_D = ones();
    layer.post_norm_D = ones();
    layer.qkv = Linear({config.q_size(), config.kv_size(), config.kv_size()}, config.hidden_size, options);
    layer.o = Linear({config.hidden_size}, config.q_size(), options);
    layer.gate_up = Linear({config.intermediate_size, config.intermediate_size}, config.hidden_size, options);
    layer.down = Linear({config.hidden_size}, config.intermediate_size, options);
    base->layers.push_back(std::move(layer));
  }
  base->inv_freq = model::InverseFrequencies(config, options.device);
  return base;
}

data::PackedBatch RandomBatch(const format::ModelConfig& config, int64_t documents, int64_t length) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(config.vocab_size - 1));
  data::PackedBatch batch;
  batch.cu_seqlens = {0};
  for (int64_t d = 0; d < documents; ++d) {
    for (int64_t i = 0; i < length; ++i) {
      batch.input_ids.push_back(token(random));
      batch.position_ids.push_back(static_cast<int32_t>(i));
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
  }
  batch.labels.assign(batch.input_ids.size(), -100);
  for (size_t i = 0; i + 1 < batch.input_ids.size(); ++i) {
    if ((static_cast<int64_t>(i) + 1) % length == 0) continue;
    batch.labels[i] = batch.input_ids[i + 1];
    ++batch.num_targets;
  }
  batch.max_seqlen = static_cast<int32_t>(length);
  return batch;
}

}  // namespace finetuned::bench
