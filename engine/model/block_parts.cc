#include "engine/model/block_parts.h"

#include <ATen/ATen.h>

#include "kernels/embedding.h"
#include "kernels/head_norm.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace finetuned::model {
namespace {

using format::ModelConfig;
using format::NormKind;

kernels::HeadNormOptions HeadOptions(const ModelConfig& m) {
  return {.eps = m.rms_norm_eps, .center = m.norm == NormKind::kLayer};
}

// A matrix as one head for each row.
at::Tensor OneHead(const at::Tensor& x_TD) { return x_TD.unsqueeze(1); }

}  // namespace

void NormForward(const ModelConfig& m, const at::Tensor& x_TD, const at::Tensor& w_D, at::Tensor& y_TD,
                 at::Tensor& rstd_T) {
  if (m.norm != NormKind::kLayer) return kernels::RmsNormForward(x_TD, w_D, m.rms_norm_eps, y_TD, rstd_T);
  at::Tensor y = OneHead(y_TD);
  kernels::HeadNormForward(OneHead(x_TD), w_D, HeadOptions(m), y);
}

void AddNormForward(const ModelConfig& m, const at::Tensor& x_TD, const at::Tensor& delta_TD, const at::Tensor& w_D,
                    at::Tensor& sum_TD, at::Tensor& y_TD, at::Tensor& rstd_T) {
  if (m.norm != NormKind::kLayer) {
    return kernels::AddRmsNormForward(x_TD, delta_TD, w_D, m.rms_norm_eps, sum_TD, y_TD, rstd_T);
  }
  at::add_out(sum_TD, x_TD, delta_TD);
  NormForward(m, sum_TD, w_D, y_TD, rstd_T);
}

void NormBackward(const ModelConfig& m, const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                  const at::Tensor& rstd_T, bool accumulate, at::Tensor& dx_TD) {
  if (m.norm != NormKind::kLayer) return kernels::RmsNormBackward(dy_TD, x_TD, w_D, rstd_T, accumulate, dx_TD);
  at::Tensor dx = OneHead(dx_TD);
  kernels::HeadNormBackward(OneHead(dy_TD), OneHead(x_TD), w_D, HeadOptions(m), accumulate, dx);
}

void HeadNormForward(const ModelConfig& m, const at::Tensor& x_THE, const at::Tensor& w, at::Tensor& y_THE) {
  kernels::HeadNormForward(x_THE, w, HeadOptions(m), y_THE);
}

void HeadNormBackward(const ModelConfig& m, const at::Tensor& x_THE, const at::Tensor& w, at::Tensor& d_THE) {
  kernels::HeadNormBackward(d_THE, x_THE, w, HeadOptions(m), /*accumulate=*/false, d_THE);
}

void Rotate(const PassContext& pass, int64_t layer, at::Tensor& x_THE, int sign) {
  const BaseModel& base = *pass.base;
  const format::LayerKind kind = base.config.layer_kind(layer);
  if (!kind.rope) return;
  const double magnitude = kind.local_rope ? 1.0 : base.config.rope_scaling.magnitude;
  const at::Tensor& table = kind.local_rope  ? base.local_inv_freq
                            : pass.long_rope ? base.long_inv_freq
                                             : base.inv_freq;
  kernels::RopeInPlace(x_THE, pass.batch->position_ids_T, table, sign, {base.config.rope_interleaved, magnitude});
}

kernels::ScoreOptions Scores(const ModelConfig& m, int64_t layer) {
  return {m.score_scale(), m.layer_kind(layer).window, m.attention_softcap};
}

kernels::Gate GateOf(const ModelConfig& m) {
  return m.activation == format::Activation::kGeluTanh ? kernels::Gate::kGeluTanh : kernels::Gate::kSilu;
}

void GateForward(const ModelConfig& m, const at::Tensor& gate_up_T2F, at::Tensor& h_TF) {
  kernels::SwigluForward(gate_up_T2F, h_TF, GateOf(m));
}

void GateBackward(const ModelConfig& m, const at::Tensor& dh_TF, const at::Tensor& gate_up_T2F,
                  at::Tensor& d_gate_up_T2F) {
  kernels::SwigluBackward(dh_TF, gate_up_T2F, d_gate_up_T2F, {}, GateOf(m));
}

double EmbeddingFactor(const BaseModel& base) {
  const double factor = base.config.embedding_multiplier;
  if (base.options.dtype != at::kBFloat16) return factor;
  return static_cast<double>(static_cast<float>(c10::BFloat16(static_cast<float>(factor))));
}

void Embed(const BaseModel& base, const at::Tensor& embed_VD, const at::Tensor& ids_T, at::Tensor& x_TD) {
  kernels::EmbeddingGather(embed_VD, ids_T, x_TD);
  const double factor = EmbeddingFactor(base);
  if (factor != 1) x_TD.mul_(factor);
}

bool TakesLongRope(const ModelConfig& m, int64_t length) {
  return m.rope_scaling.type == format::RopeScaling::Type::kLongRope &&
         length > m.rope_scaling.original_max_position_embeddings;
}

}  // namespace finetuned::model
