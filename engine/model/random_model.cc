#include "engine/model/random_model.h"

#include <ATen/ATen.h>

#include <map>
#include <random>
#include <utility>
#include <vector>

namespace finetuned::model {
namespace {

at::Tensor Normal(at::IntArrayRef shape, const LoadOptions& o) {
  return at::randn(shape, at::device(o.device).dtype(o.dtype)).mul_(0.02);
}

// Those of one group.
FrozenLinear Linear(const std::vector<format::LayerLinear>& linears, const LoadOptions& o) {
  int64_t rows = 0;
  bool biased = false;
  for (const format::LayerLinear& linear : linears) {
    rows += linear.out;
    biased |= linear.bias;
  }
  const int64_t in = linears[0].in;
  const at::Tensor bias = biased ? Normal({rows}, o) : at::Tensor();
  if (!o.quantized()) return FrozenLinear::Dense(Normal({rows, in}, o), bias);
  std::vector<StoredMatrix> parts;
  for (const format::LayerLinear& linear : linears) {
    parts.push_back(StoreMatrix(Normal({linear.out, in}, o), o.base, o.double_quant, o.dtype));
  }
  FrozenLinear stored = FrozenLinear::Stored(std::move(parts), in, bias);
  if (const auto codes = CodesOf(o.precision)) stored.PrepareCodes(*codes);
  return stored;
}

LayerWeights Layer(const format::ModelConfig& config, const LoadOptions& o) {
  LayerWeights layer;
  const at::ScalarType norms = config.norm == format::NormKind::kRms ? o.dtype : at::kFloat;
  for (const format::LayerNorm& norm : format::LayerNorms(config)) {
    layer.norm(config, norm.name) = at::ones(norm.shape, at::device(o.device).dtype(norms));
  }
  std::map<format::LinearGroup, std::vector<format::LayerLinear>> groups;
  for (const format::LayerLinear& linear : format::LayerLinears(config)) groups[linear.group].push_back(linear);
  for (const auto& [group, linears] : groups) layer.linear(group) = Linear(linears, o);
  return layer;
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
  const bool rounded = config.norm == format::NormKind::kRms && config.logits_multiplier == 1;
  base->final_norm_D = at::ones({config.hidden_size}, at::device(options.device).dtype(rounded ? options.dtype : at::kFloat));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) base->layers.push_back(Layer(config, options));
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
