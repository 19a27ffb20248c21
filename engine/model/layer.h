// One decoder layer of the family that the configuration says, forward and backward, over named buffers.
// Legend: T tokens, P rows of a piece, D hidden, H query heads, K key/value heads, E head size, F intermediate,
// Q = H*E + 2*K*E columns of the fused qkv.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/pass.h"
#include "engine/model/projection.h"

namespace finetuned::model {

// What the forward of a layer leaves for its backward, beside the layer's input; the rest is computed again, in
// pieces of PassContext::piece_rows rows: attention needs all rows at once, everything else a few at a time.
enum class Keep {
  kNothing,
  kAttention,  // q, k, v, and output and statistics of attention
  kAll,        // then the layer is one piece
};

// What PassContext::scratch must hold; 0 for a dense base. recomputes: see PassContext. adapter null: the base alone.
int64_t ScratchElements(const BaseModel& base, const lora::Adapter* adapter, bool recomputes);

// What a layer of PassContext::standing takes of the compute type, and its places in such memory, to be filled as they
// are used.
int64_t StandingElements(const BaseModel& base, const lora::Adapter& adapter, int64_t layer);
LayerPlaces PlaceStandingWeights(const BaseModel& base, const lora::Adapter& adapter, int64_t layer,
                                 const at::Tensor& memory);

// Columns that the gradient of the residual stream needs behind its own.
int64_t ResidualSpare(const lora::Adapter& adapter);

// x_TD, out_TD: residual stream before and after.
void LayerForward(const PassContext& pass, int64_t layer, Keep keep, const at::Tensor& x_TD,
                  const at::Tensor& out_TD);

// dx: in, gradient of the layer's output; out, gradient of its input; ResidualSpare columns behind it. Adds to
// the adapter's gradients. need_input_gradient false (first layer): dx is left undefined in content.
// REQUIRES: keep and x_TD of the forward; if it kept something, no forward of this layer since.
void LayerBackward(const PassContext& pass, int64_t layer, Keep keep, const at::Tensor& x_TD,
                   bool need_input_gradient, const Extended& dx_TD);

}  // namespace finetuned::model
