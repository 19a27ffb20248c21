// The parts of a layer that differ from family to family (format::ModelConfig), over the kernels.
// Legend: T tokens, D hidden, H heads, E head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/pass.h"
#include "kernels/attention_scores.h"
#include "kernels/swiglu.h"

namespace finetuned::model {

// Norms of hidden vectors. rstd_T: as kernels::RmsNormForward; LayerNorm leaves it.
void NormForward(const format::ModelConfig& model, const at::Tensor& x_TD, const at::Tensor& w_D, at::Tensor& y_TD,
                 at::Tensor& rstd_T);
// sum = x + delta, y = norm(sum).
void AddNormForward(const format::ModelConfig& model, const at::Tensor& x_TD, const at::Tensor& delta_TD,
                    const at::Tensor& w_D, at::Tensor& sum_TD, at::Tensor& y_TD, at::Tensor& rstd_T);
// dx_TD may be dy_TD when accumulate is false.
void NormBackward(const format::ModelConfig& model, const at::Tensor& dy_TD, const at::Tensor& x_TD,
                  const at::Tensor& w_D, const at::Tensor& rstd_T, bool accumulate, at::Tensor& dx_TD);

// Norms of the heads of q or k.
void HeadNormForward(const format::ModelConfig& model, const at::Tensor& x_THE, const at::Tensor& w, at::Tensor& y_THE);
// In place: the gradient of the norm's output becomes that of its input x_THE.
void HeadNormBackward(const format::ModelConfig& model, const at::Tensor& x_THE, const at::Tensor& w, at::Tensor& d_THE);

// Rotates q or k of a layer in place; sign -1: back. Nothing for layers without positions.
void Rotate(const PassContext& pass, int64_t layer, at::Tensor& x_THE, int sign);

// Attention's scores in a layer.
kernels::ScoreOptions Scores(const format::ModelConfig& model, int64_t layer);

// The gate of the MLP.
kernels::Gate GateOf(const format::ModelConfig& model);
void GateForward(const format::ModelConfig& model, const at::Tensor& gate_up_T2F, at::Tensor& h_TF);
void GateBackward(const format::ModelConfig& model, const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F,
                  at::Tensor& d_gate_up_T2F);

// What rows of the embedding are multiplied with, as the compute type has it.
double EmbeddingFactor(const BaseModel& base);
// Rows of an embedding, as the first layer reads them.
void Embed(const BaseModel& base, const at::Tensor& embed_VD, const at::Tensor& ids_T, at::Tensor& x_TD);

// Whether texts of this length take LongRoPE's table of long ones.
bool TakesLongRope(const format::ModelConfig& model, int64_t length);

}  // namespace finetuned::model
