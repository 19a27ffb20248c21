#include "engine/model/trained_modules.h"

#include <ATen/ATen.h>

namespace finetuned::model {

const FrozenLinear& LinearOf(const LayerWeights& weights, lora::GroupKind kind) {
  switch (kind) {
    case lora::GroupKind::kQkv: return weights.qkv;
    case lora::GroupKind::kO: return weights.o;
    case lora::GroupKind::kGateUp: return weights.gate_up;
    case lora::GroupKind::kDown: break;
  }
  return weights.down;
}

const at::Tensor& EmbeddingOf(const BaseModel& base, const lora::Adapter* adapter) {
  const bool trained = adapter != nullptr && adapter->embed_tokens().compute_VD.defined();
  return trained ? adapter->embed_tokens().compute_VD : base.embed_VD;
}

LmHead HeadOf(const BaseModel& base, const lora::Adapter* adapter) {
  const bool trained = adapter != nullptr && adapter->lm_head().compute_VD.defined();
  if (trained) return {.dense_VD = adapter->lm_head().compute_VD};
  if (base.lm_head.quantized()) return {.stored = &base.lm_head};
  return {.dense_VD = base.lm_head.Weight({})};
}

void AddEmbeddingGradient(const lora::Adapter& adapter, const DeviceBatch& batch, double factor,
                          const at::Tensor& dx_TD, Workspace& workspace) {
  at::Tensor rows_TD = workspace.Take("embed.gradient", 0, dx_TD.sizes(), at::kFloat);
  rows_TD.copy_(dx_TD);
  if (factor != 1) rows_TD.mul_(factor);
  at::Tensor gradient_VD = adapter.embed_tokens().dweight_VD;
  gradient_VD.index_add_(0, batch.ids_T, rows_TD);
}

void CopyModules(const BaseModel& base, lora::Adapter& adapter) {
  for (int64_t layer = 0; layer < adapter.layers(); ++layer) {
    for (int kind = 0; kind < lora::kGroups; ++kind) {
      for (const lora::BiasPart& bias : adapter.group(layer, static_cast<lora::GroupKind>(kind)).biases) {
        const FrozenLinear& linear = LinearOf(base.layers[layer], static_cast<lora::GroupKind>(kind));
        at::Tensor value_O = bias.value_O;
        if (value_O.defined()) value_O.copy_(linear.bias_O().narrow(0, bias.first_column, bias.out));
      }
    }
  }
  at::Tensor embed_VD = adapter.embed_tokens().weight_VD, head_VD = adapter.lm_head().weight_VD;
  if (embed_VD.defined()) embed_VD.copy_(base.embed_VD);
  if (head_VD.defined()) {
    head_VD.copy_(base.lm_head.Weight(at::empty({base.lm_head.ScratchElements(0)}, base.final_norm_D.options())));
  }
  adapter.RefreshCompute();
}

}  // namespace finetuned::model
