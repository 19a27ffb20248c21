#include "engine/model/layer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/varlen_attention.h"

namespace finetuned::model {
namespace {

using lora::GroupKind;

// One fused linear of a layer with its adapters.
class Projection {
 public:
  Projection(const PassContext& pass, const FrozenLinear& linear, int64_t layer, GroupKind kind)
      : pass_(pass), linear_(linear) {
    if (pass.adapter != nullptr) group_ = &pass.adapter->group(layer, kind);
  }

  int64_t ranks() const { return group_ == nullptr ? 0 : group_->ranks(); }

  void Forward(const at::Tensor& x_TI, at::Tensor& u_TG, at::Tensor& y_TO) const {
    at::mm_out(y_TO, x_TI, linear_.Weight(pass_.base->scratch).t());
    if (linear_.bias_O().defined()) y_TO.add_(linear_.bias_O());
    if (ranks() == 0) return;
    at::Tensor dropped = Dropped(x_TI);
    lora::AddForward(*group_, pass_.adapter->options().scaling(), x_TI, pass_.dropout, dropped,
                     u_TG, y_TO);
  }

  // dx_TI undefined: only the gradients of the adapters.
  void Backward(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TG,
                at::Tensor& dx_TI) const {
    if (dx_TI.defined()) at::mm_out(dx_TI, dy_TO, linear_.Weight(pass_.base->scratch));
    if (ranks() == 0) return;
    at::Tensor dropped = Dropped(x_TI);
    at::Tensor du_TG =
        pass_.workspace->Take("backward.lora_u", 0, {dy_TO.size(0), ranks()}, dy_TO.scalar_type());
    lora::AddBackward(*group_, pass_.adapter->options().scaling(), dy_TO, x_TI, u_TG,
                      pass_.dropout, dropped, du_TG, dx_TI);
  }

 private:
  at::Tensor Dropped(const at::Tensor& x_TI) const {
    if (pass_.dropout.p == 0) return {};
    return pass_.workspace->Take("lora_dropped", 0, x_TI.sizes(), x_TI.scalar_type());
  }

  const PassContext& pass_;
  const FrozenLinear& linear_;
  const lora::Group* group_ = nullptr;
};

struct LayerProjections {
  Projection qkv, o, gate_up, down;
  LayerProjections(const PassContext& pass, int64_t layer)
      : qkv(pass, pass.base->layers[layer].qkv, layer, GroupKind::kQkv),
        o(pass, pass.base->layers[layer].o, layer, GroupKind::kO),
        gate_up(pass, pass.base->layers[layer].gate_up, layer, GroupKind::kGateUp),
        down(pass, pass.base->layers[layer].down, layer, GroupKind::kDown) {}
};

// q, k, v as [T, heads, E] views of the fused buffer.
struct Heads {
  at::Tensor q_THE, k_TKE, v_TKE;
  Heads(const format::ModelConfig& m, const at::Tensor& qkv_TQ) {
    const int64_t t = qkv_TQ.size(0), e = m.head_dim, q = m.q_size(), kv = m.kv_size();
    q_THE = qkv_TQ.narrow(1, 0, q).view({t, m.num_attention_heads, e});
    k_TKE = qkv_TQ.narrow(1, q, kv).view({t, m.num_key_value_heads, e});
    v_TKE = qkv_TQ.narrow(1, q + kv, kv).view({t, m.num_key_value_heads, e});
  }
};

double AttentionScale(const format::ModelConfig& m) {
  return 1.0 / std::sqrt(static_cast<double>(m.head_dim));
}

void TakeActivations(const PassContext& pass, const LayerProjections& p, int64_t slot,
                     LayerActivations* a) {
  const format::ModelConfig& m = pass.base->config;
  const at::ScalarType dtype = pass.base->options.dtype;
  const int64_t t = pass.batch->tokens, d = m.hidden_size, f = m.intermediate_size;
  Workspace& w = *pass.workspace;
  a->rstd1_T = w.Take("layer.rstd1", slot, {t}, at::kFloat);
  a->h1_TD = w.Take("layer.h1", slot, {t, d}, dtype);
  a->qkv_TQ = w.Take("layer.qkv", slot, {t, m.q_size() + 2 * m.kv_size()}, dtype);
  if (pass.base->options.device.is_cuda()) {
    a->attn_TD = a->lse_HT = at::Tensor();  // flash attention makes its own
  } else {
    a->attn_TD = w.Take("layer.attn", slot, {t, m.num_attention_heads, m.head_dim}, dtype);
    a->lse_HT = w.Take("layer.lse", slot, {m.num_attention_heads, t}, at::kFloat);
  }
  a->mid_TD = w.Take("layer.mid", slot, {t, d}, dtype);
  a->rstd2_T = w.Take("layer.rstd2", slot, {t}, at::kFloat);
  a->h2_TD = w.Take("layer.h2", slot, {t, d}, dtype);
  a->gate_up_T2F = w.Take("layer.gate_up", slot, {t, 2 * f}, dtype);
  a->act_TF = w.Take("layer.act", slot, {t, f}, dtype);
  static constexpr const char* kNames[lora::kGroups] = {"layer.u_qkv", "layer.u_o",
                                                        "layer.u_gate_up", "layer.u_down"};
  const Projection* projections[lora::kGroups] = {&p.qkv, &p.o, &p.gate_up, &p.down};
  for (int g = 0; g < lora::kGroups; ++g) {
    a->u_TG[g] = w.Take(kNames[g], slot, {t, projections[g]->ranks()}, dtype);
  }
}

at::Tensor& U(LayerActivations* a, GroupKind kind) { return a->u_TG[static_cast<int>(kind)]; }

}  // namespace

void LayerForward(const PassContext& pass, int64_t layer, int64_t slot, LayerActivations* a,
                  at::Tensor& out_TD) {
  const format::ModelConfig& m = pass.base->config;
  const LayerWeights& weights = pass.base->layers[layer];
  const LayerProjections project(pass, layer);
  const DeviceBatch& b = *pass.batch;
  TakeActivations(pass, project, slot, a);
  at::Tensor delta_TD =
      pass.workspace->Take("layer_output", 0, a->x_TD.sizes(), a->x_TD.scalar_type());

  kernels::RmsNormForward(a->x_TD, weights.input_norm_D, m.rms_norm_eps, a->h1_TD, a->rstd1_T);
  project.qkv.Forward(a->h1_TD, U(a, GroupKind::kQkv), a->qkv_TQ);
  Heads heads(m, a->qkv_TQ);
  kernels::RopeInPlace(heads.q_THE, b.position_ids_T, pass.base->inv_freq, +1);
  kernels::RopeInPlace(heads.k_TKE, b.position_ids_T, pass.base->inv_freq, +1);
  kernels::VarlenAttentionForward(heads.q_THE, heads.k_TKE, heads.v_TKE, b.cu_seqlens,
                                  b.cu_seqlens_host, b.max_seqlen, AttentionScale(m), a->attn_TD,
                                  a->lse_HT);
  a->attn_TD = a->attn_TD.view({b.tokens, m.q_size()});
  project.o.Forward(a->attn_TD, U(a, GroupKind::kO), delta_TD);
  at::add_out(a->mid_TD, a->x_TD, delta_TD);

  kernels::RmsNormForward(a->mid_TD, weights.post_norm_D, m.rms_norm_eps, a->h2_TD, a->rstd2_T);
  project.gate_up.Forward(a->h2_TD, U(a, GroupKind::kGateUp), a->gate_up_T2F);
  kernels::SwigluForward(a->gate_up_T2F, a->act_TF);
  project.down.Forward(a->act_TF, U(a, GroupKind::kDown), delta_TD);
  at::add_out(out_TD, a->mid_TD, delta_TD);
}

void LayerBackward(const PassContext& pass, int64_t layer, LayerActivations* a,
                   bool need_input_gradient, at::Tensor& dx_TD) {
  const format::ModelConfig& m = pass.base->config;
  const LayerWeights& weights = pass.base->layers[layer];
  const LayerProjections project(pass, layer);
  const DeviceBatch& b = *pass.batch;
  const at::ScalarType dtype = dx_TD.scalar_type();
  Workspace& w = *pass.workspace;
  at::Tensor dact_TF = w.Take("backward.act", 0, a->act_TF.sizes(), dtype);
  at::Tensor dh_TD = w.Take("backward.h", 0, dx_TD.sizes(), dtype);
  at::Tensor dattn_TD = w.Take("backward.attn", 0, a->attn_TD.sizes(), dtype);
  at::Tensor dqkv_TQ = w.Take("backward.qkv", 0, a->qkv_TQ.sizes(), dtype);

  project.down.Backward(dx_TD, a->act_TF, U(a, GroupKind::kDown), dact_TF);
  at::Tensor& dgate_up_T2F = a->gate_up_T2F;
  kernels::SwigluBackward(dact_TF, a->gate_up_T2F, dgate_up_T2F);
  project.gate_up.Backward(dgate_up_T2F, a->h2_TD, U(a, GroupKind::kGateUp), dh_TD);
  kernels::RmsNormBackward(dh_TD, a->mid_TD, weights.post_norm_D, a->rstd2_T, /*accumulate=*/true,
                           dx_TD);

  project.o.Backward(dx_TD, a->attn_TD, U(a, GroupKind::kO), dattn_TD);
  const Heads heads(m, a->qkv_TQ);
  Heads d(m, dqkv_TQ);
  const at::IntArrayRef heads_shape = heads.q_THE.sizes();
  kernels::VarlenAttentionBackward(dattn_TD.view(heads_shape), heads.q_THE, heads.k_TKE,
                                   heads.v_TKE, a->attn_TD.view(heads_shape), a->lse_HT,
                                   b.cu_seqlens, b.cu_seqlens_host, b.max_seqlen,
                                   AttentionScale(m), d.q_THE, d.k_TKE, d.v_TKE,
                                   pass.deterministic);
  kernels::RopeInPlace(d.q_THE, b.position_ids_T, pass.base->inv_freq, -1);
  kernels::RopeInPlace(d.k_TKE, b.position_ids_T, pass.base->inv_freq, -1);
  if (!need_input_gradient) {
    at::Tensor none;
    project.qkv.Backward(dqkv_TQ, a->h1_TD, U(a, GroupKind::kQkv), none);
    return;
  }
  project.qkv.Backward(dqkv_TQ, a->h1_TD, U(a, GroupKind::kQkv), dh_TD);
  kernels::RmsNormBackward(dh_TD, a->x_TD, weights.input_norm_D, a->rstd1_T, /*accumulate=*/true,
                           dx_TD);
}

}  // namespace finetuned::model
