// One Llama decoder layer, forward and backward, over named buffers.
// Legend: T tokens, D hidden, H query heads, K key/value heads, E head size, F intermediate,
// Q = H*E + 2*K*E columns of the fused qkv, G sum of the ranks of a group of adapters.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/lora/adapter.h"
#include "engine/lora/apply.h"
#include "engine/model/base_model.h"
#include "engine/model/batch.h"
#include "engine/model/workspace.h"

namespace finetuned::model {

// What the layers of one pass share.
struct PassContext {
  const BaseModel* base = nullptr;
  const lora::Adapter* adapter = nullptr;  // null: the base alone
  const DeviceBatch* batch = nullptr;
  Workspace* workspace = nullptr;
  lora::DropoutKey dropout;
  bool deterministic = false;
};

// What the forward pass of a layer leaves for its backward pass.
struct LayerActivations {
  at::Tensor x_TD;         // input of the layer (residual stream); set by the caller
  at::Tensor rstd1_T, h1_TD;
  at::Tensor qkv_TQ;       // q and k rotated
  at::Tensor attn_TD, lse_HT;  // attn: [T, H*E]
  at::Tensor mid_TD;       // residual stream after attention
  at::Tensor rstd2_T, h2_TD;
  at::Tensor gate_up_T2F;  // overwritten by the backward
  at::Tensor act_TF;
  at::Tensor u_TG[lora::kGroups];
};

// Computes out_TD from a->x_TD and fills the rest of `a` from the workspace slot `slot`.
void LayerForward(const PassContext& pass, int64_t layer, int64_t slot, LayerActivations* a,
                  at::Tensor& out_TD);

// dx_TD: in, gradient of the layer's output; out, gradient of its input. Adds to the adapter's
// gradients. need_input_gradient false (first layer): dx_TD is left undefined in content.
void LayerBackward(const PassContext& pass, int64_t layer, LayerActivations* a,
                   bool need_input_gradient, at::Tensor& dx_TD);

}  // namespace finetuned::model
