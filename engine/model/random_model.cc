#include "engine/model/random_model.h"

#include <ATen/ATen.h>

#include <random>
#include <utility>

namespace finetuned::model {
namespace {

at::Tensor Normal(at::IntArrayRef shape, const LoadOptions& o) {
  return at::randn(shape, at::device(o.device).dtype(o.dtype)).mul_(0.02);
}

FrozenLinear Linear(std::vector<int64_t> rows, int64_t in, const LoadOptions& o) {
  if (!o.quantized()) {
    int64_t all = 0;
    for (int64_t r : rows) all += r;
    return FrozenLinear::Dense(Normal({all, in}, o), {});
  }
  std::vector<StoredMatrix> parts;
  for (int64_t r : rows) parts.push_back(StoreMatrix(Normal({r, in}, o), o.base, o.double_quant, o.dtype));
  FrozenLinear linear = FrozenLinear::Stored(std::move(parts), in, {});
  if (const auto codes = CodesOf(o.precision)) linear.PrepareCodes(*codes);
  return linear;
}

}  // namespace

std::shared_ptr<BaseModel> RandomModel(const format::ModelConfig& config, const LoadOptions& options) {
  auto base = std::make_shared<BaseModel>();
  base->config = config;
  base->options = options;
  base->fingerprint = "random";
  const auto table = [&] { return Normal({config.vocab_size, config.hidden_size}, options); };
  base->embed_VD = PlaceEmbedding(table(), config, options);
  if (config.tie_word_embeddings) {
    base->lm_head = FrozenLinear::Dense(base->embed_VD, {});
  } else if (options.nf4_lm_head) {
    base->lm_head = FrozenLinear::Stored(
        {StoreMatrix(table(), plan::BaseFormat::kNf4, /*double_quant=*/true, options.dtype)}, config.hidden_size, {});
  } else {
    base->lm_head = FrozenLinear::Dense(table(), {});
  }
  const auto ones = [&] { return at::ones({config.hidden_size}, at::device(options.device).dtype(options.dtype)); };
  base->final_norm_D = ones();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerWeights layer;
    layer.input_norm_D = ones();
    layer.mlp_norm_D = ones();
    layer.qkv = Linear({config.q_size(), config.kv_size(), config.kv_size()}, config.hidden_size, options);
    layer.o = Linear({config.hidden_size}, config.q_size(), options);
    layer.gate_up = Linear({config.intermediate_size, config.intermediate_size}, config.hidden_size, options);
    layer.down = Linear({config.hidden_size}, config.intermediate_size, options);
    base->layers.push_back(std::move(layer));
  }
  SetFrequencies(base.get());
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

}  // namespace finetuned::model
