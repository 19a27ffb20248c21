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
  at::Tensor scratch;              // for dequantized weights: ScratchElements() of the compute type
  lora::DropoutKey dropout;
  bool deterministic = false;
};

// What the forward pass of a layer leaves for its backward pass.
struct LayerActivations {
  at::Tensor x_TD;         // input of the layer (residual stream); set by the caller
  // Inputs of the four fused linears, each with u = x A^T behind it.
  Extended h1_TD, attn_TD, h2_TD, act_TF;
  at::Tensor rstd1_T, rstd2_T;
  at::Tensor qkv_TQ;       // q and k rotated
  at::Tensor lse_HT;
  at::Tensor mid_TD;       // residual stream after attention
  Extended gate_up_T2F;    // overwritten by the backward, which puts du behind it
};

// What PassContext::scratch must hold; 0 for a dense base.
int64_t ScratchElements(const BaseModel& base, const lora::Adapter& adapter);

// Columns that the gradient of the residual stream needs behind its own.
int64_t ResidualSpare(const lora::Adapter& adapter);

// Fills `a` but its input from the workspace slot `slot`, and computes out_TD from a->x_TD. out_TD undefined: only
// what the backward reads is computed (the recompute of a layer whose output is known).
void LayerForward(const PassContext& pass, int64_t layer, int64_t slot, LayerActivations* a,
                  const at::Tensor& out_TD);

// dx: in, gradient of the layer's output; out, gradient of its input; ResidualSpare columns behind it. Adds to
// the adapter's gradients. need_input_gradient false (first layer): dx is left undefined in content.
void LayerBackward(const PassContext& pass, int64_t layer, LayerActivations* a,
                   bool need_input_gradient, const Extended& dx_TD);

}  // namespace finetuned::model
